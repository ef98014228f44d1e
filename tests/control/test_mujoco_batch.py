import gymnasium
import mujoco
import numpy as np
import pytest

from anytask.control.envs.mujoco_batch import MujocoRollout

CART = """<mujoco><option timestep='.01'/><worldbody><body><joint name='x' type='slide' axis='1 0 0'/>
<geom size='.1' mass='2'/></body></worldbody><actuator><motor joint='x'/></actuator></mujoco>"""


def rollout_in_python(world, states, controls):
    """Return what native threads return, by a loop over ``mj_step``."""
    out = np.empty((*controls.shape[:2], world.state_size))
    for i in range(len(controls)):
        data = mujoco.MjData(world.model)
        mujoco.mj_setState(world.model, data, states[i], mujoco.mjtState.mjSTATE_FULLPHYSICS)
        for t, control in enumerate(controls[i]):
            data.ctrl[:] = control
            for _ in range(world.frame_skip):
                mujoco.mj_step(world.model, data)
            out[i, t] = world.state_of(data)
    return out


@pytest.mark.parametrize("threads", [0, 2])
def test_native_threads_give_what_a_loop_gives_to_the_last_bit(threads):
    rng = np.random.default_rng(0)
    with MujocoRollout("Hopper-v5", threads=threads) as world:
        states = np.tile(world.initial_state(), (5, 1))
        states[:, 2:] += 0.05 * rng.standard_normal(states[:, 2:].shape)
        controls = rng.uniform(-1, 1, (5, 20, world.control_size))
        native = world.rollout(states, controls)
        assert np.array_equal(native, rollout_in_python(world, states, controls))
        assert native.shape == (5, 20, world.state_size) and world.frame_skip == 4
        assert np.array_equal(native, world.rollout(states, controls))  # nothing is carried over


def test_a_constant_force_does_what_newton_says():
    # 2 kg, 3 N, steps of 0.01 s, semi-implicit: v_t = 1.5 * 0.01 t, x_t = 1.5 * 0.01^2 * t (t + 1) / 2.
    with MujocoRollout(CART, frame_skip=5) as world:
        out = world.rollout(world.initial_state(), np.full((2, 4, 1), 3.0))
    t = 5 * np.arange(1, 5)
    assert np.allclose(out[:, :, 0], 0.01 * t) and np.allclose(out[0, :, 2], 0.015 * t)
    assert np.allclose(out[1, :, 1], 1.5e-4 * t * (t + 1) / 2)


def test_the_state_of_an_environment_goes_in_and_its_own_step_comes_out():
    env = gymnasium.make("InvertedPendulum-v5")
    env.reset(seed=3)
    controls = np.random.default_rng(1).uniform(-1, 1, (1, 10, 1))
    with MujocoRollout(env) as world:
        out = world.rollout(world.state_of(env), controls)[0]
        for t in range(10):
            env.step(controls[0, t].astype(np.float64))
            assert np.array_equal(out[t], world.state_of(env))


def test_large_batches_run_in_parts(monkeypatch):
    with MujocoRollout(CART, threads=0) as world:
        controls = np.random.default_rng(0).standard_normal((7, 6, 1))
        whole = world.rollout(world.initial_state(), controls)
        monkeypatch.setattr("anytask.control.envs.mujoco_batch._MOST_NUMBERS", 50)
        assert np.array_equal(whole, world.rollout(world.initial_state(), controls))


def test_models_come_from_files_texts_and_environments(tmp_path):
    path = tmp_path / "cart.xml"
    path.write_text(CART)
    for source in (CART, path, str(path), mujoco.MjModel.from_xml_string(CART), gymnasium.make("Reacher-v5")):
        with MujocoRollout(source, threads=0) as world:
            assert world.rollout(world.initial_state(), np.zeros((1, 2, world.control_size))).shape[:2] == (1, 2)
    with pytest.raises(FileNotFoundError, match=r"nothing\.xml"):
        MujocoRollout("nothing.xml")
    with pytest.raises(TypeError, match="MuJoCo model"):
        MujocoRollout("CartPole-v1")


def test_bad_input_is_refused():
    with MujocoRollout(CART, threads=0) as world:
        state = world.initial_state()
        for states, controls, said in (
            (state, np.zeros((2, 3)), "controls must have shape"),
            (state, np.zeros((2, 3, 2)), r"controls must have shape \(n, T, 1\)"),
            (np.zeros((3, world.state_size)), np.zeros((2, 3, 1)), "states must have shape"),
            (state, np.array([[[0.0]], [[np.nan]]]), "row 1"),
        ):
            with pytest.raises(ValueError, match=said):
                world.rollout(states, controls)
    with pytest.raises(RuntimeError, match="closed"):
        world.rollout(state, np.zeros((1, 1, 1)))
    for options in ({"frame_skip": 0}, {"threads": -1}):
        with pytest.raises(ValueError, match=next(iter(options))):
            MujocoRollout(CART, **options)

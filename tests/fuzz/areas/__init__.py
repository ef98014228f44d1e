"""The areas: each module has ``run(call)`` and ``SHARE``, its part of the calls."""

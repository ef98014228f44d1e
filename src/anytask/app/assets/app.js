/* What the browser does by itself: the dialog, copying code, and saving figures. Everything else is done by the server. */
(function () {
  "use strict";
  let opener = null;

  function dialog() {
    return document.getElementById("dialog");
  }

  function leaveSystem() {
    if (window.location.hash) {
      history.pushState(null, "", window.location.pathname + window.location.search);
      window.dispatchEvent(new CustomEvent("_dashprivate_pushstate"));
    }
  }

  const unchanged = function () { return window.dash_clientside.no_update; };

  window.dash_clientside = Object.assign({}, window.dash_clientside, {
    anytask: {
      showTitle: function (links) {
        const here = (links || []).find(function (link) { return link.props.className === "here"; });
        document.title = here ? here.props.children + " · anytask" : "anytask";
        return unchanged();
      },
      // The dialog is the browser's own: it keeps the focus inside, and closes on Escape.
      showSheet: function (children) {
        const box = dialog();
        if (!box) {
          return unchanged();
        }
        if (!children || children.length === 0) {
          if (box.open) {
            box.close();
          }
          return unchanged();
        }
        if (!box.open) {
          opener = document.activeElement;
          box.showModal();
          box.addEventListener("close", closed, { once: true });
        }
        box.scrollTop = 0;
        const title = document.getElementById("sheet-title");
        if (title) {
          title.focus();
        }
        return unchanged();
      },
    },
  });

  function closed() {
    leaveSystem();
    if (opener && document.contains(opener)) {
      opener.focus();
    }
    opener = null;
  }

  document.addEventListener("click", function (event) {
    const target = event.target;
    if (!(target instanceof Element)) {
      return;
    }
    const box = dialog();
    if (box && box.open && (target === box || target.closest("#sheet-close"))) {
      box.close();
      return;
    }
    const copy = target.closest("button.copy");
    if (copy) {
      const text = copy.parentElement.querySelector("code").textContent;
      navigator.clipboard.writeText(text).then(
        function () { say(copy, "Copied"); },
        function () { say(copy, "Not allowed"); }
      );
      return;
    }
    const save = target.closest("button.save-picture");
    if (save && window.Plotly) {
      const plot = save.closest("figure").querySelector(".js-plotly-plot");
      window.Plotly.downloadImage(plot, { format: "png", filename: save.dataset.name, scale: 2 }).catch(function () {
        say(save, "Not possible here");
      });
    }
  });

  function say(button, word) {
    const before = button.dataset.word || button.textContent;
    button.dataset.word = before;
    button.textContent = word;
    window.setTimeout(function () { button.textContent = before; }, 1500);
  }
})();

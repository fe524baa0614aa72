// Applies the chosen theme before anything is drawn, so that the page does not flash.
"use strict";
(() => {
  let theme = null;
  try {
    theme = localStorage.getItem("rawrz-theme");
  } catch {
    // Storage is off: the system's theme it is.
  }
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
})();

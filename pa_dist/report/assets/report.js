"use strict";

// On paper nothing can be opened.
addEventListener("beforeprint", () => {
  for (const details of views.report.querySelectorAll("details")) details.open = true;
});

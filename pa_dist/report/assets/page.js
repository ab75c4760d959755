"use strict";

// The part of the address after # names what is shown: nothing the report, #/... the list, else a trajectory's id.
const views = { report: document.getElementById("report"), viewer: document.getElementById("viewer") };

function showView() {
  const name = location.hash.length > 1 && !location.hash.startsWith("#section-") ? "viewer" : "report";
  for (const [other, element] of Object.entries(views)) {
    element.hidden = other !== name;
    const link = document.getElementById(`to-${other}`);
    if (other === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

addEventListener("hashchange", showView);
showView();

"use strict";
const slides = [...document.querySelectorAll("section")];
const place = document.getElementById("place");
let now = 0;

function show(wanted) {
  now = Math.max(0, Math.min(wanted, slides.length - 1));
  slides.forEach((slide, k) => slide.classList.toggle("now", k === now));
  place.textContent = `${now + 1} / ${slides.length}`;
  history.replaceState(null, "", `#${slides[now].id || now + 1}`);
}

function fromAddress() {
  const name = location.hash.slice(1);
  const named = slides.findIndex((slide) => name && slide.id === name);
  show(named >= 0 ? named : Number(name) - 1 || 0);
}

const moves = {
  ArrowRight: () => now + 1, ArrowDown: () => now + 1, PageDown: () => now + 1, " ": () => now + 1,
  ArrowLeft: () => now - 1, ArrowUp: () => now - 1, PageUp: () => now - 1,
  Home: () => 0, End: () => slides.length - 1,
};
addEventListener("keydown", (event) => {
  const pressed = event.target.closest("button, a") && event.key === " ";
  if (!moves[event.key] || pressed || event.ctrlKey || event.altKey || event.metaKey) return;
  event.preventDefault();
  show(moves[event.key]());
});
document.getElementById("previous").onclick = () => show(now - 1);
document.getElementById("next").onclick = () => show(now + 1);
addEventListener("hashchange", fromAddress);
document.body.classList.add("moving");
fromAddress();

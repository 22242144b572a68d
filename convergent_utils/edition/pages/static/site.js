// The search fetches excerpts of the pages it finds, which a browser forbids to a page opened from a file.
if (location.protocol === 'file:') DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false

// A slider shows the frame of its place, and says in words which that is.
document.addEventListener('input', ({ target }) => {
  const figure = target.closest('figure.slider')
  if (!figure) return
  const label = JSON.parse(figure.dataset.labels)[target.value]
  figure.querySelector('output').textContent = label
  target.setAttribute('aria-valuetext', label)
  figure.querySelectorAll('img').forEach((frame, k) => { frame.hidden = k !== Number(target.value) })
})

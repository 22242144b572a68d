// The search fetches excerpts of the pages it finds, which a browser forbids to a page opened from a file.
if (location.protocol === 'file:') DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false
document.documentElement.classList.add('scripted')

// A slider shows the frame of its place, and says in words which that is; its other frames are fetched when it is touched.
const fetchFrames = ({ target }) => {
  const figure = target.closest?.('figure.slider')
  figure?.querySelectorAll('img[loading=lazy]').forEach((frame) => { frame.loading = 'eager' })
}
for (const touched of ['focusin', 'pointerover']) document.addEventListener(touched, fetchFrames)
document.addEventListener('input', ({ target }) => {
  const figure = target.closest('figure.slider')
  if (!figure) return
  const label = JSON.parse(figure.dataset.labels)[target.value]
  figure.querySelector('output').textContent = label
  target.setAttribute('aria-valuetext', label)
  figure.querySelectorAll('img').forEach((frame, k) => { frame.hidden = k !== Number(target.value) })
})

// The three numbers of the opening, of the mean over layers or of one layer.
document.addEventListener('input', ({ target }) => {
  const figure = target.closest('figure.numbers')
  if (!figure) return
  const layer = JSON.parse(figure.dataset.layers)[target.value]
  figure.querySelector('output').textContent = layer.name
  target.setAttribute('aria-valuetext', layer.name)
  figure.querySelectorAll('[data-role]').forEach((number) => {
    number.textContent = layer[number.dataset.role]
    number.parentElement.querySelector('.track i').style.width = `${100 * layer[number.dataset.role]}%`
  })
})

// The table of claims: a verdict shows its claims alone, and the same verdict again shows all.
function filterClaims (links, table, shown, verdict) {
  const rows = [...table.tBodies[0].rows]
  for (const row of rows) row.hidden = Boolean(verdict) && row.dataset.verdict !== verdict
  for (const link of links) {
    if (link.dataset.verdict === verdict) link.setAttribute('aria-current', 'true')
    else link.removeAttribute('aria-current')
  }
  const left = rows.filter((row) => !row.hidden).length
  shown.textContent = verdict ? `${left} of ${rows.length} claims are shown. Click the verdict again to show all.` : ''
}

// A click on the head of a column sorts by it, a second one the other way; what is empty comes last.
function sortClaims (table, column) {
  const head = table.tHead.rows[0].cells[column]
  const up = head.getAttribute('aria-sort') !== 'ascending'
  for (const cell of table.tHead.rows[0].cells) cell.removeAttribute('aria-sort')
  head.setAttribute('aria-sort', up ? 'ascending' : 'descending')
  const value = (row) => row.cells[column].dataset.value
  const compare = (a, b) => (isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b) * (up ? 1 : -1)
  const rows = [...table.tBodies[0].rows]
  rows.sort((a, b) => (value(a) === '') - (value(b) === '') || compare(value(a), value(b)))
  table.tBodies[0].append(...rows)
}

document.addEventListener('DOMContentLoaded', () => {
  const tables = [...document.querySelectorAll('table.claims')]
  for (const table of tables) {
    table.classList.add('sortable')
    ;[...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement('button')
      button.textContent = head.textContent
      button.type = 'button'
      button.addEventListener('click', () => sortClaims(table, column))
      head.replaceChildren(button)
    })
  }
  const links = [...document.querySelectorAll('.verdicts a[href^="#"]')]
  if (!tables.length || !links.length) return
  const shown = document.createElement('output')
  shown.className = 'claims-shown'
  tables[0].parentElement.before(shown)
  let current = ''
  const show = (verdict) => { current = verdict; filterClaims(links, tables[0], shown, verdict) }
  for (const link of links) {
    link.addEventListener('click', (event) => {
      event.preventDefault()
      show(current === link.dataset.verdict ? '' : link.dataset.verdict)
      history.replaceState(null, '', current ? `#verdict-${current}` : location.pathname + location.search)
    })
  }
  const asked = links.find((link) => link.hash === location.hash && link.hash)
  if (asked) show(asked.dataset.verdict)
})

(function () {
  'use strict';
  var doc = document;
  function all(selector, inside) { return Array.prototype.slice.call((inside || doc).querySelectorAll(selector)); }
  var sections = all('details.claim');
  var words = {};
  sections.forEach(function (section) {
    words[section.getAttribute('data-claim')] = section.textContent.toLowerCase();
  });

  // -- search --------------------------------------------------------------------------------
  var box = doc.getElementById('search');
  var found = doc.getElementById('found');
  function search() {
    var wanted = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    var count = 0;
    var hidden = {};
    Object.keys(words).forEach(function (number) {
      var fits = wanted.every(function (word) { return words[number].indexOf(word) >= 0; });
      hidden[number] = !fits;
      count += fits ? 1 : 0;
    });
    all('[data-claim]').forEach(function (element) {
      element.classList.toggle('unfound', hidden[element.getAttribute('data-claim')]);
    });
    found.textContent = wanted.length ? count + ' of ' + sections.length + ' claims' : '';
  }
  if (box) {
    doc.getElementById('tools').hidden = false;
    box.addEventListener('input', search);
    doc.addEventListener('keydown', function (event) {
      var typing = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName) && event.target.type !== 'radio';
      if (event.key === '/' && !typing && !event.ctrlKey && !event.metaKey) {
        event.preventDefault();
        box.focus();
      } else if (event.key === 'Escape' && event.target === box) {
        box.value = '';
        search();
      }
    });
    doc.getElementById('unfold').addEventListener('click', function () {
      var closed = sections.some(function (section) { return !section.open; });
      sections.forEach(function (section) { section.open = closed; });
      this.textContent = closed ? 'Fold all' : 'Unfold all';
    });
  }

  // -- sorting -------------------------------------------------------------------------------
  var table = doc.getElementById('verdict-table');
  if (table) {
    var heads = all('thead th', table);
    var bodies = all('tbody', table);
    var rows = all('tbody tr[data-claim]', table);
    var sorted = doc.createElement('tbody');
    sorted.className = 'filtered';
    var value = function (row, column) {
      var cell = row.cells[column];
      var text = (cell.getAttribute('data-sort') || cell.textContent).trim();
      var number = parseFloat(text.replace(/^[<>\s]+/, ''));
      return isNaN(number) ? text.toLowerCase() : number;
    };
    heads.forEach(function (head, column) {
      var button = doc.createElement('button');
      button.type = 'button';
      button.textContent = head.textContent || 'no.';
      head.textContent = '';
      head.appendChild(button);
      button.addEventListener('click', function () {
        var before = head.getAttribute('aria-sort');
        var next = before === 'ascending' ? 'descending' : before === 'descending' ? '' : 'ascending';
        heads.forEach(function (other) { other.removeAttribute('aria-sort'); });
        if (!next) {  // a third click puts families back
          bodies.forEach(function (body) { table.appendChild(body); });
          rows.forEach(function (row) { row.home.appendChild(row); });
          sorted.remove();
          return;
        }
        head.setAttribute('aria-sort', next);
        var way = next === 'ascending' ? 1 : -1;
        var order = rows.map(function (row, index) { return [value(row, column), index, row]; });
        order.sort(function (one, two) {
          var a = one[0], b = two[0];
          if (typeof a !== typeof b) { return typeof a === 'number' ? -1 : 1; }  // texts and '-' last
          return a < b ? -way : a > b ? way : one[1] - two[1];
        });
        rows.forEach(function (row) { row.home = row.home || row.parentNode; });
        order.forEach(function (entry) { sorted.appendChild(entry[2]); });
        bodies.forEach(function (body) { body.remove(); });
        table.appendChild(sorted);
      });
    });
  }

  // -- links, copies, print ------------------------------------------------------------------
  function unfoldTarget() {
    var target = location.hash.length > 1 && doc.getElementById(location.hash.slice(1));
    var section = target && target.closest('details');
    while (section) {
      section.open = true;
      section = section.parentElement.closest('details');
    }
    if (target) { target.scrollIntoView(); }
  }
  addEventListener('hashchange', unfoldTarget);
  unfoldTarget();
  if (navigator.clipboard) {
    all('pre.replay').forEach(function (block) {
      var button = doc.createElement('button');
      button.type = 'button';
      button.className = 'copy';
      button.textContent = 'Copy';
      button.addEventListener('click', function () {
        navigator.clipboard.writeText(block.textContent).then(function () { button.textContent = 'Copied'; });
      });
      block.parentNode.insertBefore(button, block);
    });
  }
  var opened = [];
  addEventListener('beforeprint', function () {
    opened = all('details').filter(function (one) { return !one.open; });
    opened.forEach(function (one) { one.open = true; });
  });
  addEventListener('afterprint', function () { opened.forEach(function (one) { one.open = false; }); });
}());

// Layered layout for the service graph: columns by distance from the callers, few crossings, smooth arrows.
// After Sugiyama, Tagawa, Toda (1981): break cycles, assign layers, split long edges, order by barycentres, place.

/** Size of a service's box. */
export const NODE = { width: 208, height: 50 };
const GAP = { x: 100, y: 24 };
const PAD = 24;
const ROUNDS = 12;

/** Gives nodes `x`, `y` and edges `path`, `label`; returns them with the picture's size. */
export function layout(nodes, edges) {
  const names = nodes.map(({ name }) => name).sort();
  const proper = edges.filter(({ parent, child }) => parent !== child);
  const forward = acyclic(names, proper);
  const layer = layers(names, forward);
  const { columns, chains } = columnsOf(names, forward, layer);
  order(columns);
  place(columns);
  const x = (at) => PAD + at * (NODE.width + GAP.x);
  const placed = new Map();
  columns.forEach((column, at) => column.forEach((cell) => { cell.x = x(at); if (cell.name) placed.set(cell.name, cell); }));
  const height = Math.max(...columns.flat().map((cell) => cell.y + NODE.height)) + PAD;
  const drawnEdges = edges.map((edge) => ({ ...edge, ...(edge.parent === edge.child ? loop(placed.get(edge.parent)) : curve(chains.get(edge))) }));
  return {
    nodes: nodes.map((node) => ({ ...node, x: placed.get(node.name).x, y: placed.get(node.name).y })),
    edges: drawnEdges,
    width: x(columns.length - 1) + NODE.width + PAD,
    height,
  };
}

/** Every edge as `{ from, to, edge }` without cycles: an edge back to where we came from is turned around. */
function acyclic(names, edges) {
  const out = new Map(names.map((name) => [name, edges.filter(({ parent }) => parent === name)]));
  const called = new Set(edges.map(({ child }) => child));
  const state = new Map();
  const turned = new Set();
  for (const start of [...names.filter((name) => !called.has(name)), ...names]) {
    if (state.has(start)) continue;
    const stack = [[start, 0]];
    state.set(start, 'open');
    while (stack.length > 0) {
      const top = stack[stack.length - 1];
      const edge = out.get(top[0])[top[1]];
      top[1] += 1;
      if (!edge) {
        state.set(top[0], 'done');
        stack.pop();
      } else if (state.get(edge.child) === 'open') {
        turned.add(edge);
      } else if (!state.has(edge.child)) {
        state.set(edge.child, 'open');
        stack.push([edge.child, 0]);
      }
    }
  }
  return edges.map((edge) => (turned.has(edge) ? { from: edge.child, to: edge.parent, edge, turned: true } : { from: edge.parent, to: edge.child, edge, turned: false }));
}

/** The longest way from a caller that nobody calls; lone callers move next to what they call. */
function layers(names, forward) {
  const layer = new Map(names.map((name) => [name, 0]));
  for (let round = 0, moved = true; moved && round <= names.length; round += 1) {
    moved = false;
    for (const { from, to } of forward) {
      if (layer.get(to) < layer.get(from) + 1) {
        layer.set(to, layer.get(from) + 1);
        moved = true;
      }
    }
  }
  for (const name of names) {
    const callees = forward.filter(({ from }) => from === name).map(({ to }) => layer.get(to));
    if (callees.length > 0 && !forward.some(({ to }) => to === name)) layer.set(name, Math.min(...callees) - 1);
  }
  return layer;
}

/** Columns of cells; an edge over several columns passes through nameless cells. `chains`: each edge's cells in drawing order. */
function columnsOf(names, forward, layer) {
  const columns = Array.from({ length: Math.max(...layer.values()) + 1 }, () => []);
  const cells = new Map();
  const cell = (name, at) => {
    const made = { name, before: [], after: [], y: 0, at };
    columns[at].push(made);
    return made;
  };
  for (const name of names) cells.set(name, cell(name, layer.get(name)));
  const chains = new Map();
  for (const { from, to, edge, turned } of forward) {
    const chain = [cells.get(from)];
    for (let at = layer.get(from) + 1; at < layer.get(to); at += 1) chain.push(cell(null, at));
    chain.push(cells.get(to));
    for (let i = 1; i < chain.length; i += 1) {
      chain[i - 1].after.push(chain[i]);
      chain[i].before.push(chain[i - 1]);
    }
    chains.set(edge, { cells: turned ? chain.reverse() : chain, turned });
  }
  return { columns, chains };
}

function order(columns) {
  const number = () => columns.forEach((column) => column.forEach((cell, i) => { cell.i = i; }));
  number();
  let best = columns.map((column) => [...column]);
  let fewest = crossings(columns);
  for (let round = 0; round < ROUNDS && fewest > 0; round += 1) {
    const side = round % 2 === 0 ? 'before' : 'after';
    const sweep = round % 2 === 0 ? columns : [...columns].reverse();
    for (const column of sweep) {
      for (const cell of column) cell.centre = cell[side].length > 0 ? mean(cell[side].map(({ i }) => i)) : cell.i;
      column.sort((a, b) => a.centre - b.centre || a.i - b.i);
      column.forEach((cell, i) => { cell.i = i; });
    }
    const now = crossings(columns);
    if (now < fewest) {
      fewest = now;
      best = columns.map((column) => [...column]);
    }
  }
  columns.forEach((column, at) => column.splice(0, column.length, ...best[at]));
  number();
}

function crossings(columns) {
  let total = 0;
  for (const column of columns) {
    const links = column.flatMap((cell) => cell.after.map((next) => [cell.i, next.i]));
    for (let a = 0; a < links.length; a += 1) {
      for (let b = a + 1; b < links.length; b += 1) {
        if ((links[a][0] - links[b][0]) * (links[a][1] - links[b][1]) < 0) total += 1;
      }
    }
  }
  return total;
}

/** Pulls cells level with their neighbours, keeps the order and the distances within a column. */
function place(columns) {
  const gap = (a, b) => (a.name && b.name ? NODE.height + GAP.y : (NODE.height + GAP.y) * 0.75);
  for (const column of columns) column.reduce((y, cell, i) => { cell.y = i === 0 ? 0 : y + gap(column[i - 1], cell); return cell.y; }, 0);
  for (let round = 0; round < ROUNDS; round += 1) {
    const sweep = round % 2 === 0 ? columns : [...columns].reverse();
    for (const column of sweep) {
      const wish = column.map((cell) => {
        const near = [...cell.before, ...cell.after];
        return near.length > 0 ? mean(near.map(({ y }) => y)) : cell.y;
      });
      // Down from the top and up from the bottom, then the mean of both: nobody is pushed to one side.
      const down = [];
      column.forEach((cell, i) => { down[i] = i === 0 ? wish[i] : Math.max(wish[i], down[i - 1] + gap(column[i - 1], cell)); });
      const up = [];
      for (let i = column.length - 1; i >= 0; i -= 1) up[i] = i === column.length - 1 ? wish[i] : Math.min(wish[i], up[i + 1] - gap(column[i], column[i + 1]));
      column.forEach((cell, i) => { cell.y = (down[i] + up[i]) / 2; });
    }
  }
  const top = Math.min(...columns.flat().map(({ y }) => y));
  for (const cell of columns.flat()) cell.y += PAD - top;
}

function curve({ cells, turned }) {
  const middle = NODE.height / 2;
  const leave = (cell) => (cell.name ? cell.x + (turned ? 0 : NODE.width) : cell.x + NODE.width / 2);
  const enter = (cell) => (cell.name ? cell.x + (turned ? NODE.width : 0) : cell.x + NODE.width / 2);
  const points = cells.map((cell, i) => ({ x: i === 0 ? leave(cell) : enter(cell), y: cell.y + middle }));
  // Edges against the direction run a little lower, so that they do not cover their counterpart.
  if (turned) for (const point of points) point.y += 10;
  let path = `M${points[0].x} ${points[0].y}`;
  for (let i = 1; i < points.length; i += 1) {
    const [a, b] = [points[i - 1], points[i]];
    const bend = (b.x - a.x) / 2;
    path += `C${a.x + bend} ${a.y} ${b.x - bend} ${b.y} ${b.x} ${b.y}`;
  }
  const at = Math.floor((points.length - 2) / 2);
  const [a, b] = [points[at], points[at + 1]];
  return { path, label: { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 - 5 } };
}

/** A service that calls itself: a bow above its right corner. */
function loop(cell) {
  const [x, y] = [cell.x + NODE.width - 30, cell.y];
  return { path: `M${x - 14} ${y}C${x - 20} ${y - 22} ${x + 20} ${y - 22} ${x + 14} ${y}`, label: { x: x - 32, y: y - 7 } };
}

function mean(numbers) {
  return numbers.reduce((sum, number) => sum + number, 0) / numbers.length;
}

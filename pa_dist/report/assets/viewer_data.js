// The viewer's data: compressed JSON in base64, in the page or in scripts beside it, each of which calls viewerChunk.
const viewerData = (() => {
  const CHUNKS_HELD = 8;
  const waiting = new Map();
  const held = new Map();
  let loading = null;

  globalThis.viewerChunk = (number, text) => waiting.get(number)?.(text);

  async function unpacked(base64) {
    const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }

  function fromFile(number) {
    return new Promise((resolve, reject) => {
      const script = document.createElement("script");
      const end = (settle) => (value) => {
        waiting.delete(number);
        script.remove();
        settle(value);
      };
      const name = `data/${String(number).padStart(5, "0")}.js`;
      waiting.set(number, end(resolve));
      script.addEventListener("error", () => end(reject)(new Error(`${name} is not beside this page`)));
      script.src = name;
      document.head.append(script);
    });
  }

  async function readChunk(number) {
    const embedded = document.getElementById(`viewer-chunk-${number}`);
    return unpacked(embedded ? embedded.textContent : await fromFile(number));
  }

  // A chunk's content; of the chunks seen last a few are kept.
  function chunk(number) {
    const found = held.get(number) ?? readChunk(number);
    held.delete(number);
    held.set(number, found);
    found.catch(() => held.delete(number));
    if (held.size > CHUNKS_HELD) held.delete(held.keys().next().value);
    return found;
  }

  // The index, with what is looked up in it often. Maps, as an id may be any text, `__proto__` too.
  function load() {
    loading ??= (async () => {
      const element = document.getElementById("viewer-index");
      if (!element) throw new Error("this page was made without its trajectories");
      const index = await unpacked(element.textContent);
      index.size = index.id.length;
      index.places = new Map(index.id.map((id, place) => [id, place]));
      index.names = index.groups.map((names) => names.filter((name) => name !== null).join(" / "));
      index.trials = new Map();
      for (let place = 0; place < index.size; place++) {
        const key = taskKey(index, place);
        if (!index.trials.has(key)) index.trials.set(key, []);
        index.trials.get(key).push(place);
      }
      index.words = index.id.map((id, place) =>
        `${id}\n${index.task[place] ?? ""}\n${index.abouts[index.about[place]]}`.toLowerCase());
      return index;
    })();
    return loading;
  }

  function taskKey(index, place) {
    const task = index.task[place];
    return task === null ? `alone ${place}` : `task ${index.group[place]} ${task}`;
  }

  function siblings(index, place) {
    return index.trials.get(taskKey(index, place));
  }

  // One trajectory, its messages' contents put back in their places.
  async function trajectory(index, place) {
    let last = 0;
    while (last + 1 < index.chunks.length && index.chunks[last + 1] <= place) last += 1;
    const { texts, rows } = await chunk(index.chunks[last]);
    const row = rows[place - index.chunks[last]];
    return { ...row, messages: row.messages.map((message) => ({ ...message, content: texts[message.content] })) };
  }

  function outcome(index, place) {
    return index.success[place] === null ? "unknown" : index.success[place] ? "success" : "failure";
  }

  // Predictors are of failures: of what succeeded, and what nobody blames, theirs say nothing.
  function mayBlame(index, place) {
    return index.success[place] !== true || index.mistake_step[place] !== null;
  }

  return { load, trajectory, siblings, outcome, mayBlame };
})();

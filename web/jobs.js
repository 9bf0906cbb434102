// Jobs as portray.js gives them: events, and requests to end.

/** A job: events by `for await`; leaving it early stops. */
export class Job {
  constructor(start) {
    this.queue = [];
    this.waiting = [];
    this.over = false;
    this.started = start((event) => this.#push({ event }));
    this.started.promise.then(() => this.#push({ end: true }), (error) => this.#push({ error }));
  }

  #push(item) {
    this.queue.push(item);
    for (const wake of this.waiting.splice(0)) wake();
  }

  stop() {
    this.started.ask("stop");
  }

  /** Resolves when nothing of it runs any more. */
  get ended() {
    return this.started.promise.then(() => {}, () => {});
  }

  async *[Symbol.asyncIterator]() {
    try {
      for (;;) {
        while (this.queue.length === 0) {
          if (this.over) return;
          await new Promise((resolve) => this.waiting.push(resolve));
        }
        const { event, error } = this.queue.shift();
        if (!event) {
          this.over = true;
          for (const wake of this.waiting.splice(0)) wake();
          // A job that was stopped by its own caller has nothing more to say.
          if (error && error.kind !== "interrupted") throw error;
          return;
        }
        yield event;
      }
    } finally {
      if (!this.over) this.started.ask("stop");
    }
  }
}

export class TrainingJob extends Job {
  constructor(id, start) {
    super(start);
    this.id = id;
  }

  /** Saves, then ends with `{ type: "paused" }`. */
  pause() {
    this.started.ask("stop");
  }

  /** Ends with this update and the LoRA as it is. */
  finish() {
    this.started.ask("finish");
  }
}

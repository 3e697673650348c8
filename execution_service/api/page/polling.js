// What is shown is asked for again and again, each by its own rhythm; how old the last good answer is, is known at any moment.

import { Unreachable, poll } from "./server.js";

/** So long the service keeps a list at most. */
const OLDEST_SECONDS = 10;

export class Polling {
  /** `questions`: by name, `{path(), every, silentAfter, show(body)}`, in seconds. What had no answer for `silentAfter` is stale, and so is what is much older than that. */
  constructor(questions) {
    this.questions = new Map(Object.entries(questions).map(([name, question]) => [name, { ...question, name, answeredAt: null, timer: 0, isAsking: false }]));
    this.isRunning = false;
  }

  start() {
    if (this.isRunning) return;
    this.isRunning = true;
    this.askAll();
  }

  stop() {
    this.isRunning = false;
    for (const question of this.questions.values()) {
      clearTimeout(question.timer);
      question.answeredAt = null;
    }
  }

  askAll() {
    for (const name of this.questions.keys()) this.ask(name);
  }

  /** Now; again as usual afterwards. */
  async ask(name) {
    const question = this.questions.get(name);
    if (!this.isRunning) return;
    if (question.isAsking) {
      question.isWanted = true;
      return;
    }
    question.isAsking = true;
    clearTimeout(question.timer);
    const path = question.path();
    try {
      const { body, age } = await poll(path, { always: question.shownPath !== path });
      if (!this.isRunning) return;
      if (path === question.path()) {
        if (body !== null) question.show(body);
        question.answeredAt = performance.now();
        question.madeAt = question.answeredAt - 1000 * age;
        question.shownPath = path;
        question.failure = null;
      } else {
        question.isWanted = true;
      }
    } catch (error) {
      question.failure = error;
      if (!(error instanceof Unreachable) && error.status === undefined) console.error(error);
    } finally {
      question.isAsking = false;
      if (this.isRunning) {
        const pause = question.isWanted ? 50 : question.every * 1000;
        question.isWanted = false;
        question.timer = setTimeout(() => this.ask(name), pause);
      }
    }
  }

  /** How old what is shown is, in seconds: the service keeps lists that take long to draw up. Infinite where there was no answer yet. */
  age(name) {
    const { answeredAt, madeAt } = this.questions.get(name);
    return answeredAt === null ? Infinity : (performance.now() - madeAt) / 1000;
  }

  isStale(name) {
    const { answeredAt, silentAfter } = this.questions.get(name);
    return answeredAt !== null && ((performance.now() - answeredAt) / 1000 > silentAfter || this.age(name) > silentAfter + OLDEST_SECONDS);
  }

  failure(name) {
    return this.questions.get(name).failure ?? null;
  }
}

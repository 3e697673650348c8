// What is shown is asked for again and again, each by its own rhythm; how old the last good answer is, is known at any moment.

import { Unreachable, get } from "./server.js";

export class Polling {
  /** `questions`: by name, `{path(), every, staleAfter, show(body)}`, in seconds. A path of null asks nothing. */
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

  /** Now; again as usual afterwards. `isFresh`: the whole answer is wanted, also where nothing has changed. */
  async ask(name, { isFresh = false } = {}) {
    const question = this.questions.get(name);
    if (!this.isRunning) return;
    if (question.isAsking) {
      question.isWanted = true;
      question.wantsFresh ||= isFresh;
      return;
    }
    question.isAsking = true;
    clearTimeout(question.timer);
    const path = question.path();
    try {
      const body = path === null ? null : await get(path, { always: isFresh || question.shownPath !== path });
      if (!this.isRunning) return;
      if (path === question.path()) {
        question.answeredAt = performance.now();
        question.shownPath = path;
        question.failure = null;
        if (body !== null) question.show(body);
      } else {
        question.isWanted = true;
      }
    } catch (error) {
      question.failure = error;
      if (!(error instanceof Unreachable) && error.status === undefined) console.error(error);
    } finally {
      question.isAsking = false;
      if (this.isRunning) {
        const { isWanted, wantsFresh } = question;
        question.isWanted = question.wantsFresh = false;
        question.timer = setTimeout(() => this.ask(name, { isFresh: wantsFresh }), isWanted ? 50 : question.every * 1000);
      }
    }
  }

  /** In seconds; infinite where there was none yet. */
  age(name) {
    const { answeredAt } = this.questions.get(name);
    return answeredAt === null ? Infinity : (performance.now() - answeredAt) / 1000;
  }

  isStale(name) {
    const question = this.questions.get(name);
    return question.path() !== null && this.age(name) > question.staleAfter;
  }

  failure(name) {
    return this.questions.get(name).failure ?? null;
  }
}

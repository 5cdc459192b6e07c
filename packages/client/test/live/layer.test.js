/** Own writes over the server's rows: shown at once, gone without a trace, never back and forth. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { Layer, Write } from '../../dist/live/layer.js';

/**
 * A row of the server, writes to it from here and from elsewhere, and two queues to the client:
 * answers, and changes of a subscription. Which queue is read next is chance.
 */
class Duplex {
  answers = [];
  changes = [];

  constructor(row) {
    this.row = row;
    this.base = row;
    this.layer = new Layer();
    this.ticks = 0;
  }

  /** `verdict`: whether the server will refuse it. */
  write(kind, values, verdict) {
    const write = new Write('t', '1', kind, values);
    this.layer.begin(write);
    this.answers.push({ write, verdict });
    return write;
  }

  /** The server takes the oldest write that it has not looked at. */
  decide() {
    const next = this.answers.find((answer) => answer.decided === undefined);
    if (next === undefined) return;
    const { write, verdict } = next;
    next.decided = true;
    const fails = verdict === 'refuse' || (write.kind === 'create') === (this.row !== undefined);
    next.error = fails;
    if (fails) return;
    this.row = write.kind === 'delete' ? undefined : { ...this.row, ...write.values };
    next.record = this.row;
    this.changes.push(this.row);
  }

  elsewhere(values) {
    if (this.row === undefined) return;
    this.row = { ...this.row, ...values };
    this.changes.push(this.row);
  }

  hearAnswer() {
    if (this.answers[0]?.decided === undefined) return;
    const { write, error, record } = this.answers.shift();
    if (error) {
      write.state = 'refused';
      this.layer.drop(write);
    } else {
      write.answer(record, (this.ticks += 1));
      this.layer.answered(write);
    }
  }

  hearChange() {
    if (this.changes.length === 0) return;
    this.base = this.changes.shift();
    this.layer.changed('1', this.base);
  }

  drain() {
    while (this.answers.length + this.changes.length > 0) {
      this.decide();
      this.hearAnswer();
      this.hearChange();
    }
  }

  get shown() {
    return this.layer.show('1', this.base);
  }
}

const STEPS = ['write', 'refused', 'decide', 'elsewhere', 'answer', 'change'];
const steps = fc.array(fc.constantFrom(...STEPS), { maxLength: 60 });

test('ds_21_what_is_shown_is_always_the_last_own_write_that_was_not_refused', () => {
  const property = fc.property(steps, (steps) => {
    const server = new Duplex({ id: '1', title: 0, other: 0 });
    const issued = [];
    steps.push('drain');
    for (const [at, step] of steps.entries()) {
      if (step === 'write' || step === 'refused') {
        issued.push(server.write('update', { title: at + 1 }, step === 'refused' ? 'refuse' : 'take'));
      }
      if (step === 'decide') server.decide();
      if (step === 'elsewhere') server.elsewhere({ other: at });
      if (step === 'answer') server.hearAnswer();
      if (step === 'change') server.hearChange();
      if (step === 'drain') server.drain();
      const expected = issued.findLast(({ state }) => state !== 'refused')?.values.title ?? 0;
      assert.equal(server.shown.title, expected, `after step ${at} of ${steps}`);
    }
    assert.deepEqual(server.shown, server.row);
    assert.ok(server.layer.isEmpty, 'nothing is kept');
  });
  fc.assert(property, { numRuns: 3000 });
});

test('ds_21_rows_that_come_and_go_end_as_the_server_has_them', () => {
  const kinds = ['create', 'update', 'delete'];
  const step = fc.oneof(fc.constantFrom(...STEPS.slice(2)), fc.record({ kind: fc.constantFrom(...kinds), refuse: fc.boolean() }));
  const property = fc.property(fc.boolean(), fc.array(step, { maxLength: 60 }), (exists, steps) => {
    const server = new Duplex(exists ? { id: '1', title: 0 } : undefined);
    for (const [at, step] of steps.entries()) {
      if (step === 'decide') server.decide();
      else if (step === 'elsewhere') server.elsewhere({ title: -at });
      else if (step === 'answer') server.hearAnswer();
      else if (step === 'change') server.hearChange();
      else if (step.kind !== undefined) {
        const values = step.kind === 'delete' ? {} : step.kind === 'create' ? { id: '1', title: at } : { title: at };
        const write = server.write(step.kind, values, step.refuse ? 'refuse' : 'take');
        if (step.kind === 'delete') assert.equal(server.shown, undefined);
        else if (server.shown !== undefined && step.kind === 'update') assert.equal(server.shown.title, at);
        assert.equal(write.state, 'sent');
      }
    }
    server.drain();
    // What no change has ended is ended by time.
    for (const key of [...server.layer.keys()]) {
      server.layer.refreshed(Infinity);
      assert.ok(key);
    }
    assert.deepEqual(server.shown, server.row);
    assert.ok(server.layer.isEmpty);
  });
  fc.assert(property, { numRuns: 3000 });
});

test('a delete that was answered before its change is never undone in between', () => {
  const server = new Duplex({ id: '1', title: 0 });
  server.write('delete', {}, 'take');
  server.decide();
  server.hearAnswer();
  assert.equal(server.shown, undefined);
  server.hearChange();
  assert.equal(server.shown, undefined);
  assert.ok(server.layer.isEmpty);
});

test('the answer replaces what was written: defaults, triggers and types change values', () => {
  const layer = new Layer();
  const write = new Write('t', '1', 'update', { title: ' a ' });
  layer.begin(write);
  const base = { id: '1', title: 'x', slug: 'x' };
  assert.deepEqual(layer.show('1', base), { id: '1', title: ' a ', slug: 'x' });
  write.answer({ id: '1', title: 'a', slug: 'a' }, 1);
  layer.answered(write);
  assert.deepEqual(layer.show('1', base), { id: '1', title: 'a', slug: 'x' });
  layer.changed('1', { id: '1', title: 'a', slug: 'a' });
  assert.ok(layer.isEmpty);
});

test('a row under a write is the same object until something changes', () => {
  const layer = new Layer();
  layer.begin(new Write('t', '1', 'update', { title: 'b' }));
  const base = { id: '1', title: 'a' };
  assert.equal(layer.show('1', base), layer.show('1', base));
});

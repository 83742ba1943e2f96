-- events
SELECT event, sender_id, name, data, "user", ts, received_at, partition, "offset" FROM past.events;

-- dead_letters
SELECT source, error, value, rejected_at, partition, "offset" FROM past.dead_letters;

-- runs
SELECT run, function, version, status, event_name, event_id, event_ids, input, output, error_name,
  error_message, error_stack, reason, invoker_run, invoker_step, rerun_of, rerun_from, asked_by, why,
  started_at, due_at, ended_at, duration_ms, attempts, partition, first_offset, last_offset, partial FROM past.runs
UNION ALL
SELECT o.run, o.function, o.version,
  CASE WHEN o.stopped THEN 'stopped' WHEN p.running THEN 'running'
       WHEN p.waiting THEN 'waiting' WHEN p.retrying OR o.retry_at > {now} THEN 'retrying'
       WHEN o.due_at > {now} AND p.run IS NULL THEN 'scheduled' ELSE 'running' END,
  o.event_name, o.event_id, o.event_ids, o.input, NULL, NULL, NULL, NULL, NULL, o.invoker_run,
  o.invoker_step, o.rerun_of, o.rerun_from, o.asked_by, o.why, o.started_at, o.due_at, NULL, NULL, o.attempts, o.partition, o.first_offset,
  o.last_offset, o.partial
FROM open.runs o LEFT JOIN (
  SELECT run, bool_or(kind = 'step' AND NOT retrying) AS running,
    bool_or(kind <> 'step') AS waiting, bool_or(retrying) AS retrying
  FROM open.operations WHERE status IS NULL GROUP BY run) p ON p.run = o.run;

-- steps
SELECT run, function, step, status, attempts, started_at, attempt_started_at, ended_at,
  duration_ms, output, error_name, error_message, error_stack FROM past.steps
UNION ALL
SELECT s.run, r.function, s.name,
  coalesce(s.status, CASE WHEN s.retrying THEN 'retrying' ELSE 'running' END), s.attempts,
  s.started_at, s.attempt_started_at, s.ended_at,
  date_diff('millisecond', s.started_at, s.ended_at), s.data, s.error_name, s.error_message,
  s.error_stack
FROM open.operations s JOIN open.runs r ON r.run = s.run WHERE s.kind = 'step';

-- attempts
SELECT run, function, step, attempt, 'failed' AS status, started_at, ended_at, duration_ms,
  retry_at, error_name, error_message, error_stack FROM past.attempts
UNION ALL
SELECT run, function, step, attempts, status, attempt_started_at, ended_at,
  date_diff('millisecond', attempt_started_at, ended_at), NULL, error_name, error_message,
  error_stack
FROM past.steps WHERE status <> 'abandoned' OR attempt_open
UNION ALL
SELECT a.run, r.function, coalesce(a.name, ''), a.attempt, 'failed', a.started_at, a.ended_at,
  date_diff('millisecond', a.started_at, a.ended_at), a.retry_at, a.error_name, a.error_message,
  a.error_stack
FROM open.attempts a JOIN open.runs r ON r.run = a.run
UNION ALL
SELECT s.run, r.function, s.name, s.attempts, coalesce(s.status, 'running'), s.attempt_started_at,
  s.ended_at, date_diff('millisecond', s.attempt_started_at, s.ended_at), NULL, s.error_name,
  s.error_message, s.error_stack
FROM open.operations s JOIN open.runs r ON r.run = s.run
WHERE s.kind = 'step' AND NOT s.retrying;

-- waits
SELECT run, function, step, kind, status, event_name, expression, event_id, data, started_at,
  due_at, ended_at, duration_ms FROM past.waits
UNION ALL
SELECT w.run, r.function, w.name, CASE w.kind WHEN 'wait' THEN 'event' ELSE w.kind END,
  coalesce(w.status, 'waiting'), w.target, w.expression, w.event_id, w.data, w.started_at,
  w.due_at, w.ended_at, date_diff('millisecond', w.started_at, w.ended_at)
FROM open.operations w JOIN open.runs r ON r.run = w.run WHERE w.kind IN ('wait', 'sleep', 'timer');

-- signals
SELECT run, function, step, signal, status, data, started_at, due_at, ended_at, duration_ms
FROM past.signals
UNION ALL
SELECT s.run, r.function, s.name, s.target, coalesce(s.status, 'waiting'), s.data, s.started_at,
  s.due_at, s.ended_at, date_diff('millisecond', s.started_at, s.ended_at)
FROM open.operations s JOIN open.runs r ON r.run = s.run WHERE s.kind = 'signal';

-- invocations
SELECT run, function, step, invoked, status, output, error_name, error_message, error_stack,
  started_at, due_at, ended_at, duration_ms FROM past.invocations
UNION ALL
SELECT i.run, r.function, i.name, i.target, coalesce(i.status, 'waiting'), i.data, i.error_name,
  i.error_message, i.error_stack, i.started_at, i.due_at, i.ended_at,
  date_diff('millisecond', i.started_at, i.ended_at)
FROM open.operations i JOIN open.runs r ON r.run = i.run WHERE i.kind = 'invoke';

-- recordings
SELECT run, function, ended_at, recording FROM past.recordings;

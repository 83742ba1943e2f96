-- Fold a batch of facts (the tables `started`, `heads`, `finished`, `reruns`, `marks`, `began`,
-- `tried`, `ended`) into the tables. Statements run in order, inside one transaction. Every merge
-- takes what was known first, so a fact that comes again changes nothing.

-- keys: the runs that the batch says something of
CREATE OR REPLACE TEMP TABLE b_keys AS
SELECT run, any_value(partition) AS partition,
  min(CASE WHEN n < 0 THEN n + 4611686018427387904 ELSE n END) >> 20 AS first_offset,
  max(CASE WHEN n < 0 THEN n + 4611686018427387904 ELSE n END) >> 20 AS last_offset FROM (
  SELECT run, partition, n FROM started UNION ALL SELECT run, partition, n FROM heads
  UNION ALL SELECT run, partition, n FROM finished UNION ALL SELECT run, partition, n FROM marks
  UNION ALL SELECT run, partition, n FROM reruns
  UNION ALL SELECT run, partition, n FROM began UNION ALL SELECT run, partition, n FROM tried
  UNION ALL SELECT run, partition, n FROM ended) GROUP BY run;

-- runs: what is known of them now; facts of unknown runs mean nothing, but in a round's reading
CREATE OR REPLACE TEMP TABLE b_runs AS
SELECT k.run,
  coalesce(o.function, s.function, h.function) AS function,
  coalesce(o.version, s.version, h.version) AS version,
  coalesce(o.event_name, s.event_name) AS event_name,
  coalesce(o.event_id, s.event_id) AS event_id,
  coalesce(o.event_ids, s.event_ids) AS event_ids,
  coalesce(o.input, TRY_CAST(s.input AS JSON)) AS input,
  coalesce(o.invoker_run, s.invoker_run, h.invoker_run) AS invoker_run,
  coalesce(o.invoker_step, lower(hex(s.invoker_step)), lower(hex(h.invoker_step))) AS invoker_step,
  coalesce(o.rerun_of, x.origin) AS rerun_of,
  coalesce(o.rerun_from, nullif(x.from_step, '')) AS rerun_from,
  coalesce(o.asked_by, nullif(x.asked_by, '')) AS asked_by,
  coalesce(o.why, nullif(x.why, '')) AS why,
  coalesce(o.started_at, epoch_ms(s.at_ms), epoch_ms(h.at_ms)) AS started_at,
  coalesce(o.due_at, epoch_ms(nullif(s.due_ms, 0)), epoch_ms(nullif(h.due_ms, 0))) AS due_at,
  greatest(o.attempts, t.attempt + 1, h.attempt, 1) AS attempts,
  coalesce(epoch_ms(t.due_ms), o.retry_at) AS retry_at,
  coalesce(m.stopped, o.stopped, h.stopped, false) AS stopped,
  CASE WHEN m.run IS NOT NULL THEN TRY_CAST(m.report AS JSON) ELSE o.report END AS report,
  k.partition,
  coalesce(o.first_offset, k.first_offset) AS first_offset,
  greatest(o.last_offset, coalesce(f.n >> 20, k.last_offset)) AS last_offset,
  coalesce(o.partial, s.run IS NULL OR s.n < 0) AS partial,
  coalesce(o.missed, false) AND h.run IS NULL AS missed,
  o.run IS NOT NULL AND NOT o.partial AS known_whole,
  coalesce(f.n, 9223372036854775807) AS last_n,
  f.status, TRY_CAST(f.output AS JSON) AS output, f.error_name, f.error_message, f.error_stack, f.reason,
  epoch_ms(f.at_ms) AS ended_at
FROM b_keys k
LEFT JOIN open.runs o ON o.run = k.run
LEFT JOIN started s ON s.run = k.run
LEFT JOIN heads h ON h.run = k.run
LEFT JOIN finished f ON f.run = k.run
LEFT JOIN reruns x ON x.run = k.run
LEFT JOIN (SELECT run, arg_max(stopped, n) AS stopped, arg_max(report, n) AS report
           FROM marks GROUP BY run) m ON m.run = k.run
LEFT JOIN (SELECT run, max(attempt) AS attempt, arg_max(due_ms, n) AS due_ms
           FROM tried WHERE step = ''::BLOB AND failed GROUP BY run) t ON t.run = k.run
WHERE o.run IS NOT NULL OR s.run IS NOT NULL OR h.run IS NOT NULL
   OR k.partition IN (SELECT partition FROM partial_partitions);

-- operations of which more is known than how they ended
CREATE OR REPLACE TEMP TABLE b_known AS
SELECT run, step FROM began
UNION SELECT run, step FROM tried WHERE step <> ''::BLOB
UNION SELECT o.run, o.step FROM open.operations o WHERE o.run IN (SELECT run FROM b_runs);

-- operations: of those runs, touched by the batch or of a run that ends. Most are steps that were
-- done at the first try: there is one fact of them, and nothing to put it together with.
CREATE OR REPLACE TEMP TABLE b_operations AS
WITH keys AS (
  SELECT run, step FROM began
  UNION SELECT run, step FROM tried WHERE step <> ''::BLOB
  UNION SELECT e.run, e.step FROM ended e SEMI JOIN b_known k ON k.run = e.run AND k.step = e.step
  UNION SELECT o.run, o.step FROM open.operations o
        WHERE o.run IN (SELECT run FROM b_runs WHERE status IS NOT NULL)),
tries AS (
  SELECT t.run, t.step, max(t.attempt) AS attempt, min(t.started_ms) AS first_ms,
    arg_max(struct_pack(name := t.name, started_ms := t.started_ms, failed := t.failed,
      due_ms := t.due_ms, error_name := t.error_name, error_message := t.error_message,
      error_stack := t.error_stack), t.n) AS last
  FROM tried t JOIN b_runs r ON r.run = t.run
  WHERE t.step <> ''::BLOB AND t.n <= r.last_n AND (t.n >= 0 OR NOT r.known_whole)
  GROUP BY t.run, t.step)
SELECT k.run, k.step, r.function, r.ended_at AS run_ended_at,
  coalesce(o.kind, b.kind, e.kind, CASE WHEN t.run IS NOT NULL THEN 'step' END) AS kind,
  coalesce(o.name, b.name, t.last.name, e.name) AS name,
  coalesce(o.status, e.status, CASE WHEN r.status IS NOT NULL THEN 'abandoned' END) AS status,
  coalesce(o.target, b.target) AS target,
  coalesce(o.expression, b.expression) AS expression,
  least(o.started_at, epoch_ms(b.at_ms), epoch_ms(t.first_ms), epoch_ms(e.started_ms))
    AS started_at,
  CASE WHEN t.last.failed THEN epoch_ms(t.last.due_ms)
       ELSE coalesce(o.due_at, epoch_ms(b.due_ms)) END AS due_at,
  coalesce(o.ended_at, epoch_ms(e.at_ms), r.ended_at) AS ended_at,
  greatest(o.attempts, t.attempt, e.attempt) AS attempts,
  CASE WHEN o.status IS NOT NULL THEN o.attempt_started_at
       ELSE coalesce(epoch_ms(e.started_ms), epoch_ms(t.last.started_ms), o.attempt_started_at)
  END AS attempt_started_at,
  CASE WHEN e.status IN ('completed', 'failed') THEN false
       ELSE coalesce(t.last.failed, o.retrying, false) END AS retrying,
  coalesce(o.data, TRY_CAST(e.data AS JSON)) AS data,
  coalesce(o.event_id, e.event_id) AS event_id,
  CASE WHEN o.status IS NOT NULL THEN o.error_name WHEN e.run IS NOT NULL THEN e.error_name
       ELSE coalesce(t.last.error_name, o.error_name) END AS error_name,
  CASE WHEN o.status IS NOT NULL THEN o.error_message WHEN e.run IS NOT NULL
       THEN e.error_message ELSE coalesce(t.last.error_message, o.error_message) END
    AS error_message,
  CASE WHEN o.status IS NOT NULL THEN o.error_stack WHEN e.run IS NOT NULL THEN e.error_stack
       ELSE coalesce(t.last.error_stack, o.error_stack) END AS error_stack
FROM keys k
JOIN b_runs r ON r.run = k.run
LEFT JOIN open.operations o ON o.run = k.run AND o.step = k.step
LEFT JOIN began b ON b.run = k.run AND b.step = k.step AND b.n <= r.last_n
  AND (b.n >= 0 OR NOT r.known_whole)
LEFT JOIN tries t ON t.run = k.run AND t.step = k.step
LEFT JOIN ended e ON e.run = k.run AND e.step = k.step AND e.n <= r.last_n
  AND (e.n >= 0 OR NOT r.known_whole)
WHERE o.run IS NOT NULL OR b.run IS NOT NULL OR t.run IS NOT NULL OR e.run IS NOT NULL
UNION ALL
SELECT e.run, e.step, r.function, r.ended_at, e.kind, e.name, e.status, NULL, NULL,
  epoch_ms(e.started_ms), NULL, epoch_ms(e.at_ms), e.attempt, epoch_ms(e.started_ms), false,
  TRY_CAST(e.data AS JSON), e.event_id, e.error_name, e.error_message, e.error_stack
FROM ended e JOIN b_runs r ON r.run = e.run ANTI JOIN b_known k ON k.run = e.run AND k.step = e.step
WHERE e.n <= r.last_n AND (e.n >= 0 OR NOT r.known_whole);

-- the old rows go
DELETE FROM open.runs WHERE run IN (SELECT run FROM b_runs);
DELETE FROM open.operations o USING b_operations b WHERE b.run = o.run AND b.step = o.step;

-- unfinished runs stay open
INSERT INTO open.runs
SELECT run, function, version, event_name, event_id, event_ids, input, invoker_run, invoker_step,
  rerun_of, rerun_from, asked_by, why, started_at, due_at, attempts, retry_at, stopped, report, partition, first_offset, last_offset,
  partial, missed
FROM b_runs WHERE status IS NULL;
INSERT INTO open.operations
SELECT run, step, kind, name, status, target, expression, started_at, due_at, ended_at, attempts,
  attempt_started_at, retrying, data, event_id, error_name, error_message, error_stack
FROM b_operations WHERE run_ended_at IS NULL;

-- finished ones are past
INSERT INTO past.runs
SELECT run, function, version, status, event_name, event_id, event_ids, input, output, error_name,
  error_message, error_stack, reason, invoker_run, invoker_step, rerun_of, rerun_from, asked_by, why,
  started_at, due_at, ended_at, date_diff('millisecond', started_at, ended_at), attempts, partition, first_offset,
  last_offset, partial
FROM b_runs WHERE status IS NOT NULL;
INSERT INTO past.steps
SELECT run, function, name, status, attempts, started_at, attempt_started_at, ended_at,
  date_diff('millisecond', started_at, ended_at), data, error_name, error_message, error_stack,
  NOT retrying, run_ended_at
FROM b_operations WHERE run_ended_at IS NOT NULL AND kind = 'step';
INSERT INTO past.step_sums
SELECT function, step, CAST(round(ln(greatest(duration_ms, 1)) * 20) AS SMALLINT), count(*),
  max(duration_ms), sum(duration_ms), count(*) FILTER (WHERE done),
  count(*) FILTER (WHERE done AND attempts > 1), count(*) FILTER (WHERE done AND status = 'failed'),
  sum(attempts) FILTER (WHERE done)
FROM (SELECT function, name AS step, status, attempts, status IN ('completed', 'failed') AS done,
        date_diff('millisecond', started_at, ended_at) AS duration_ms
      FROM b_operations WHERE run_ended_at IS NOT NULL AND kind = 'step')
GROUP BY ALL;
INSERT INTO past.failed
SELECT function, name, error_name, error_message, {shape}, run, ended_at
FROM b_operations WHERE run_ended_at IS NOT NULL AND kind = 'step' AND status = 'failed'
UNION ALL
SELECT function, '', error_name, error_message, {shape}, run, ended_at
FROM b_runs WHERE status = 'failed' AND error_name <> 'StepError';

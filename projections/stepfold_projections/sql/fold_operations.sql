-- Fold the operations of a batch that are no steps and whose run has ended, behind `fold`.

INSERT INTO past.waits
SELECT run, function, name, CASE kind WHEN 'wait' THEN 'event' ELSE kind END, status, target,
  expression, event_id, data, started_at, due_at, ended_at,
  date_diff('millisecond', started_at, ended_at), run_ended_at
FROM b_operations WHERE run_ended_at IS NOT NULL AND kind IN ('wait', 'sleep', 'timer');
INSERT INTO past.signals
SELECT run, function, name, target, status, data, started_at, due_at, ended_at,
  date_diff('millisecond', started_at, ended_at), run_ended_at
FROM b_operations WHERE run_ended_at IS NOT NULL AND kind = 'signal';
INSERT INTO past.invocations
SELECT run, function, name, target, status, data, error_name, error_message, error_stack,
  started_at, due_at, ended_at, date_diff('millisecond', started_at, ended_at), run_ended_at
FROM b_operations WHERE run_ended_at IS NOT NULL AND kind = 'invoke';

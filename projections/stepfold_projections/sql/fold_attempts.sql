-- Fold the failed attempts of a batch, behind `fold`; nothing to do if it, and the tables, have none.

-- attempts: those that failed and are followed by another
CREATE OR REPLACE TEMP TABLE b_attempts AS
SELECT t.run, t.step, t.name, t.attempt, epoch_ms(t.started_ms) AS started_at,
  epoch_ms(t.at_ms) AS ended_at, epoch_ms(t.due_ms) AS retry_at, t.error_name, t.error_message,
  t.error_stack
FROM tried t JOIN b_runs r ON r.run = t.run
WHERE t.failed AND t.error_name IS NOT NULL AND t.n <= r.last_n
  AND (t.n >= 0 OR NOT r.known_whole)
  AND NOT (r.partial AND EXISTS (
    SELECT 1 FROM open.attempts a
    WHERE a.run = t.run AND a.step = t.step AND a.attempt = t.attempt))
UNION ALL
SELECT a.* FROM open.attempts a WHERE a.run IN (SELECT run FROM b_runs WHERE status IS NOT NULL);

DELETE FROM open.attempts WHERE run IN (SELECT run FROM b_runs WHERE status IS NOT NULL);
INSERT INTO open.attempts
SELECT b.* FROM b_attempts b WHERE b.run IN (SELECT run FROM b_runs WHERE status IS NULL);

INSERT INTO past.attempts
SELECT b.run, r.function, coalesce(b.name, ''), b.attempt, b.started_at, b.ended_at,
  date_diff('millisecond', b.started_at, b.ended_at), b.retry_at, b.error_name, b.error_message,
  b.error_stack, r.ended_at
FROM b_attempts b JOIN b_runs r ON r.run = b.run WHERE r.status IS NOT NULL;

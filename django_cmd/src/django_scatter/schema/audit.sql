-- What does not add up in the control tables of a plan: one row for each violation, with what is there and what should
-- be. No row: planned = ok + unchanged + stale + skipped + quarantined + remaining holds for every batch and the plan.
WITH o AS (
    SELECT batch, max(position) AS last,
           sum(CASE outcome WHEN 'stale' THEN 1 ELSE 0 END) AS stale,
           sum(CASE outcome WHEN 'skipped' THEN 1 ELSE 0 END) AS skipped,
           sum(CASE outcome WHEN 'quarantined' THEN 1 ELSE 0 END) AS quarantined
    FROM scatter_outcome WHERE plan = $1 GROUP BY batch
), s AS (
    SELECT batch, sum(records) AS records FROM scatter_share WHERE plan = $1 GROUP BY batch
), b AS (
    SELECT c.batch, c.state, c.records, c.position, c.unchanged, c.stale, c.skipped, c.quarantined,
           c.unchanged + c.stale + c.skipped + c.quarantined AS not_ok, coalesce(o.last, -1) AS last,
           coalesce(o.stale, 0) AS o_stale, coalesce(o.skipped, 0) AS o_skipped,
           coalesce(o.quarantined, 0) AS o_quarantined, coalesce(s.records, 0) AS shares
    FROM scatter_batch c LEFT JOIN o ON o.batch = c.batch LEFT JOIN s ON s.batch = c.batch
    WHERE c.plan = $1
), t AS (
    SELECT count(*) AS n, coalesce(sum(records), 0) AS records FROM b
)
SELECT 'position behind the last record' AS violation, batch, position AS found, records AS expected
FROM b WHERE position < 0 OR position > records
UNION ALL SELECT 'done before the last record', batch, position, records FROM b WHERE state = 'done' AND position <> records
UNION ALL SELECT 'more outcomes than records tried', batch, not_ok, position FROM b WHERE not_ok > position
UNION ALL SELECT 'stale records that are listed', batch, o_stale, stale FROM b WHERE o_stale <> stale
UNION ALL SELECT 'skipped records that are listed', batch, o_skipped, skipped FROM b WHERE o_skipped <> skipped
UNION ALL SELECT 'quarantined records that are listed', batch, o_quarantined, quarantined
FROM b WHERE o_quarantined <> quarantined
UNION ALL SELECT 'outcome behind the position', batch, last, position FROM b WHERE last >= position
UNION ALL SELECT 'records finished by workers', batch, shares, position FROM b WHERE shares <> position
UNION ALL SELECT 'records of all batches', 0, t.records, p.total FROM scatter_plan p, t
WHERE p.plan = $1 AND p.total <> t.records
UNION ALL SELECT 'batches', 0, t.n, p.n_batches FROM scatter_plan p, t
WHERE p.plan = $1 AND (t.n > p.n_batches OR p.state = 'finished' AND t.n <> p.n_batches)
UNION ALL SELECT 'open batch of a finished plan', b.batch, b.position, b.records FROM scatter_plan p, b
WHERE p.plan = $1 AND p.state = 'finished' AND b.state NOT IN ('done', 'cancelled')
ORDER BY 2, 1 LIMIT 100

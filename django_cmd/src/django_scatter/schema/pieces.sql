-- PostgreSQL: the changes of a chunk, piece by piece, as the text of a DO block. A piece that is refused is taken back alone
-- and cut until the refused change is alone; that is told and passed. The block ends early after so many of them, or so
-- many milliseconds. It has neither parameters nor a result: values and answer are settings of the transaction (scatter.*).
-- [lo, bound] was refused as a whole; point is the change that the server's words seem to mean, a hint where to cut.
-- SCSTL: some row does not hold its planned values.
#variable_conflict use_variable
DECLARE
    @arrays@
    lo integer := 1;
    size integer := current_setting('scatter.size');
    total integer := current_setting('scatter.total');
    most integer := current_setting('scatter.most');
    until timestamptz := clock_timestamp() + current_setting('scatter.ms')::integer * interval '1 millisecond';
    careful boolean := false;
    hi integer;
    bound integer := 0;
    point integer := 0;
    hints integer := 0;
    written bigint;
    missing text;
    stale text := '';
    state text;
    words text;
    detail text;
    refused integer[] := '{}';
    states text[] := '{}';
    texts text[] := '{}';
    details text[] := '{}';
BEGIN
    WHILE lo <= total LOOP
        EXIT WHEN cardinality(refused) >= most OR lo > 1 AND clock_timestamp() > until;
        IF bound < lo THEN
            bound := 0;
            point := 0;
            hints := 0;
            hi := least(lo + size - 1, total);
        ELSIF point > lo THEN
            hi := point - 1;
        ELSIF point = lo THEN
            hi := lo;
        ELSE
            hi := lo + (bound - lo) / 2;
        END IF;
        missing := NULL;
        BEGIN
            IF careful THEN
                WITH u AS (@update@ RETURNING v.i)
                SELECT string_agg((lo - 1 + g.i)::text || ',', '') INTO missing
                FROM generate_series(1, hi - lo + 1) AS g (i) WHERE g.i NOT IN (SELECT u.i FROM u);
            ELSE
                @update@;
                GET DIAGNOSTICS written = ROW_COUNT;
                IF written < hi - lo + 1 THEN
                    RAISE EXCEPTION USING ERRCODE = 'SCSTL';
                END IF;
            END IF;
            stale := stale || coalesce(missing, '');
            lo := hi + 1;
        EXCEPTION
            WHEN SQLSTATE 'SCSTL' THEN
                careful := true;
            WHEN OTHERS THEN
                GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, words = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL;
                -- No record's fault: connections, transactions, locks, limits.
                IF left(state, 2) IN ('08', '25', '40', '53', '55', '57', '58') THEN
                    RAISE;
                END IF;
                IF hi = lo THEN
                    refused := refused || lo;
                    states := states || state;
                    texts := texts || coalesce(words, '');
                    details := details || coalesce(detail, '');
                    lo := lo + 1;
                    bound := 0;
                    CONTINUE;
                END IF;
                bound := hi;
                point := 0;
                hints := hints + 1;
                IF hints <= 2 THEN
                    point := CASE
                        WHEN state = '23505' THEN @in_detail@
                        WHEN state IN ('23502', '23514') THEN
                            coalesce(array_position(k0[lo:hi]::text[], substring(detail from '\(([^,()]+)[,)]')), 0)
                        WHEN state LIKE '22%' THEN @in_words@
                        ELSE 0 END;
                    point := CASE WHEN point > 0 THEN lo + point - 1 ELSE 0 END;
                END IF;
        END;
    END LOOP;
    PERFORM set_config('scatter.at', (lo - 1)::text, true), set_config('scatter.stale', stale, true),
        set_config('scatter.refused', refused::text, true), set_config('scatter.states', states::text, true),
        set_config('scatter.texts', texts::text, true), set_config('scatter.details', details::text, true);
END

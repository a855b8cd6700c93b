-- Where accepted events stand in the history that did not come as they happened. The timeline does
-- not tell it of all: a redaction is shown only once what it redacts is here.
ALTER TABLE event_graph ADD COLUMN ordering bigint;     -- null: its position

-- PostgreSQL reads no field of an event that has U+0000 in any other.
CREATE FUNCTION pg_temp.read_fact(state bytea) RETURNS json LANGUAGE sql AS $$
    SELECT regexp_replace(convert_from(state, 'UTF8'),
        '(?<!\\)((?:\\\\)*)\\u0000', '\1\\ufffd', 'g')::json
$$;

UPDATE event_graph g SET ordering = t.ordering FROM timeline t
WHERE t.position = g.position AND t.ordering <> t.position;

UPDATE event_graph g SET ordering = (pg_temp.read_fact(s.state) ->> 'ordering')::bigint
FROM stored_events s WHERE s.notification_id = g.position
    AND g.is_outlier AND g.is_placed AND g.verdict = 0 AND g.ordering IS NULL;

CREATE INDEX event_graph_moved ON event_graph (ordering) WHERE ordering IS NOT NULL;
DROP INDEX timeline_moved;

-- Backfilled redactions were shown whether or not they redact something; others were not, when what
-- they redact came by backfilling.
CREATE TEMPORARY TABLE redacting ON COMMIT DROP AS
SELECT x.room_nid, x.position, coalesce(g.ordering, x.position) AS ordering,
    e.position IS NOT NULL AND (x.server IS NULL OR x.server = (
        SELECT substr(f.sender, strpos(f.sender, ':') + 1) FROM (SELECT
            pg_temp.read_fact(s.state) -> 'pdu' ->> 'sender' AS sender
            FROM stored_events s WHERE s.notification_id = e.position) f)) AS redacts,
    g.state_at IS NOT NULL AND NOT g.is_outlier AS on_branch
FROM redactions x
JOIN event_graph g ON g.position = x.position AND g.is_placed AND g.verdict = 0
LEFT JOIN event_graph e ON e.event_id = x.event_id AND e.room_nid = x.room_nid;

DELETE FROM timeline t USING redacting r
WHERE t.room_nid = r.room_nid AND t.ordering = r.ordering AND t.position = r.position
    AND NOT r.redacts;

INSERT INTO timeline (room_nid, ordering, position, type, sender, is_state, has_url, on_branch,
    notifies, thread, origin_server_ts)
SELECT r.room_nid, r.ordering, r.position, 'm.room.redaction', f.pdu ->> 'sender', false, false,
    r.on_branch, 0, NULL, (f.pdu ->> 'origin_server_ts')::bigint
FROM redacting r JOIN stored_events s ON s.notification_id = r.position
CROSS JOIN LATERAL (SELECT pg_temp.read_fact(s.state) -> 'pdu' AS pdu) f
WHERE r.redacts ON CONFLICT DO NOTHING;

DROP FUNCTION pg_temp.read_fact(bytea);

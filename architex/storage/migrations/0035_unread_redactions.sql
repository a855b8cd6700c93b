-- Redactions, of which the newest of a room says whether what was counted as unread still holds.
CREATE INDEX timeline_redactions ON timeline (room_nid, ordering) WHERE type = 'm.room.redaction';

-- State before events that do not simply follow the end of their room.

-- The state before an event is the current state at position `state_at`, changed by the overlay
-- `overlay` (null: by none). Null `state_at` is the usual case: the position before the event.
ALTER TABLE event_graph
    ADD COLUMN state_at bigint,
    ADD COLUMN overlay bigint,
    ADD COLUMN is_state boolean NOT NULL DEFAULT false;

-- Which state events an event authorises: from an auth event to its children.
CREATE INDEX event_graph_children ON event_graph USING gin (auth_events) WHERE is_state;

-- An overlay changes entries of a state; what it does not change is as in its parent.
CREATE TABLE state_overlays (
    overlay bigint PRIMARY KEY,         -- position of the event whose state before it is
    parent bigint
);
CREATE TABLE overlay_entries (
    overlay bigint NOT NULL,
    type text COLLATE "C" NOT NULL,
    state_key text COLLATE "C" NOT NULL,
    position bigint,                    -- of the event; null: the entry is not there
    PRIMARY KEY (overlay, type, state_key)
);

-- What ended or began between two positions; where an event stands in the state.
CREATE INDEX current_state_ends ON current_state (room_nid, valid_to)
    WHERE valid_to < 9223372036854775807;
CREATE INDEX current_state_position ON current_state (position);

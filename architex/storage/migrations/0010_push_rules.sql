-- What users changed about their push rules: rules of their own, in their order, and for
-- predefined ones (whose rule_id begins with a dot) only what differs.
-- The row of account_data with the type m.push_rules says when that was last changed.
CREATE TABLE push_rules (
    user_id text COLLATE "C" NOT NULL REFERENCES users ON DELETE CASCADE,
    kind text COLLATE "C" NOT NULL,
    rule_id text COLLATE "C" NOT NULL,
    ordering bigint NOT NULL,           -- within the kind: the smallest is tried first
    enabled boolean,                    -- null: as predefined
    actions text,                       -- JSON; null: as predefined
    definition text,                    -- JSON: conditions or pattern; null: as predefined
    PRIMARY KEY (user_id, kind, rule_id)
);

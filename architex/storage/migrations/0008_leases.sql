-- Leases are renewed every second or two and are worth nothing after a crash: no need to flush
-- them to the disk.
ALTER TABLE leases SET UNLOGGED;

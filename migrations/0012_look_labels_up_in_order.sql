-- A look-up of labels reads what was inserted lately one by one, up to 4 MB of it until the next vacuum: 4 ms that are not flat.
-- Labels change seldom, so each goes to its place at once.
ALTER INDEX sandbox_by_label SET (fastupdate = off);
SELECT gin_clean_pending_list('sandbox_by_label');

-- Open uploads as ListMultipartUploads walks them, counted per bucket by the same index; and by age, for those that nobody
-- finishes.
DROP INDEX uploads_active;
CREATE INDEX uploads_listed ON uploads (bucket, key, upload) WHERE state IN ('open', 'completing');
CREATE INDEX uploads_by_age ON uploads (initiated) WHERE state IN ('open', 'completing');

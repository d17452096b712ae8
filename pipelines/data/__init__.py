"""Data on S3, and the checks and caches around it.

`s3` is S3 as folders of files, `folder_storage` the same interface on this disk, `multipart` the upload of large files.
`staging` uploads datasets, weights and the salt, `check` examines a dataset before a run, `join` combines several.
`step_cache` and `cache_entries` reuse results of earlier steps; `digests` identifies data by its content. `test_reads`
keeps the register of test reads, `answers` collects the answers of a batch transform.
"""

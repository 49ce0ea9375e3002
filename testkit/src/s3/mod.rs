//! The S3 operations over [`Disk`].

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use http::StatusCode;
use s3s::dto::*;
use s3s::{S3, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};

use crate::disk::{Condition, Disk, DiskError, ListQuery, Listed, Listing, Meta};

/// Reads up to this many bytes are done in place: as fast as handing them to another thread.
const IN_PLACE: u64 = 256 << 10;
/// Keys of one page, at most.
const PAGE: i32 = 1000;

/// In a request's extensions: behave as a store that does not know `If-None-Match` on a PUT.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IgnoreIfNoneMatch;

/// The S3 operations. Multipart uploads are in [`crate::s3::multipart`].
#[derive(Clone)]
pub(crate) struct S3Ops {
    pub(crate) disk: Arc<Disk>,
    uploads: Arc<multipart::Uploads>,
}

impl S3Ops {
    pub fn new(disk: Arc<Disk>) -> Self {
        Self { disk, uploads: Arc::default() }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Disk) -> Result<T, DiskError> + Send + 'static,
    ) -> S3Result<T> {
        let disk = self.disk.clone();
        match tokio::task::spawn_blocking(move || job(&disk)).await {
            Ok(done) => Ok(done?),
            Err(e) => Err(s3_error!(e, InternalError)),
        }
    }
}

impl From<DiskError> for s3s::S3Error {
    fn from(e: DiskError) -> Self {
        if matches!(&e, DiskError::Io(e) if e.kind() == io::ErrorKind::StorageFull) {
            let mut full = Self::with_message(S3ErrorCode::Custom("InsufficientStorage".into()), e.to_string());
            full.set_status_code(StatusCode::INSUFFICIENT_STORAGE);
            return full;
        }
        let code = match &e {
            DiskError::NoSuchBucket => S3ErrorCode::NoSuchBucket,
            DiskError::NoSuchKey => S3ErrorCode::NoSuchKey,
            DiskError::BucketExists => S3ErrorCode::BucketAlreadyOwnedByYou,
            DiskError::BucketNotEmpty => S3ErrorCode::BucketNotEmpty,
            DiskError::Precondition => S3ErrorCode::PreconditionFailed,
            DiskError::Key(_) => S3ErrorCode::InvalidArgument,
            DiskError::Io(_) => S3ErrorCode::InternalError,
        };
        Self::with_message(code, e.to_string())
    }
}

fn etag(meta: &Meta) -> ETag {
    ETag::Strong(meta.tag())
}

fn size(n: u64) -> Option<i64> {
    i64::try_from(n).ok()
}

/// What a PUT's headers ask for. `If-None-Match` with a tag is not something S3 knows on a PUT.
fn condition(none_match: Option<ETagCondition>, matches: Option<ETagCondition>) -> S3Result<Condition> {
    match (none_match, matches) {
        (None, None) => Ok(Condition::Always),
        (Some(ETagCondition::Any), None) => Ok(Condition::Absent),
        (None, Some(ETagCondition::Any)) => Ok(Condition::Present),
        (None, Some(ETagCondition::ETag(tag))) => Ok(Condition::Tag(tag.into_value())),
        _ => Err(s3_error!(NotImplemented, "this condition is not known on a PUT")),
    }
}

/// The conditions of a GET or HEAD on the entity tag.
fn check_read(meta: &Meta, matches: Option<&ETagCondition>, none_match: Option<&ETagCondition>) -> S3Result<()> {
    let is = |c: &ETagCondition| c.as_etag().is_none_or(|t| t.value() == meta.tag());
    if matches.is_some_and(|c| !is(c)) {
        return Err(s3_error!(PreconditionFailed));
    }
    if none_match.is_some_and(is) {
        return Err(s3_error!(NotModified));
    }
    Ok(())
}

async fn collect(body: Option<StreamingBlob>) -> S3Result<Vec<Bytes>> {
    let Some(body) = body else { return Ok(Vec::new()) };
    body.try_collect().await.map_err(|e| {
        // The stream ends in an error where the body is not what the request's hash says.
        s3s::S3Error::with_source(S3ErrorCode::Custom("XAmzContentSHA256Mismatch".into()), e)
    })
}

/// Where a page begins: a key, or the common prefix that ended the page before.
fn token_of(last: &Listed) -> String {
    match last {
        Listed::Object(key, _) => format!("k{key}"),
        Listed::Prefix(prefix) => format!("p{prefix}"),
    }
    .bytes()
    .map(|b| format!("{b:02x}"))
    .collect()
}

fn begin_at(query: &mut ListQuery, token: &str) -> S3Result<()> {
    let bad = || s3_error!(InvalidArgument, "the continuation token is not one of ours");
    let bytes: Option<Vec<u8>> = (0..token.len().div_ceil(2))
        .map(|i| token.get(2 * i..2 * i + 2).and_then(|h| u8::from_str_radix(h, 16).ok()))
        .collect();
    let text = bytes.and_then(|b| String::from_utf8(b).ok()).ok_or_else(bad)?;
    match text.split_at_checked(1) {
        Some(("k", key)) => query.after = key.into(),
        Some(("p", prefix)) => {
            query.after = prefix.into();
            query.beyond = Some(prefix.into());
        }
        _ => return Err(bad()),
    }
    Ok(())
}

/// Keys as the reply holds them: with `encoding-type=url`, escaped.
fn encode(key: String, how: Option<&EncodingType>) -> String {
    if how.is_none_or(|e| e.as_str() != EncodingType::URL) {
        return key;
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/-_.~*".contains(&b);
    key.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

fn lines(listing: Listing, how: Option<&EncodingType>) -> (ObjectList, CommonPrefixList) {
    let (mut objects, mut prefixes) = (Vec::new(), Vec::new());
    for line in listing.items {
        match line {
            Listed::Object(key, meta) => objects.push(Object {
                e_tag: Some(etag(&meta)),
                key: Some(encode(key, how)),
                last_modified: Some(meta.modified.into()),
                size: size(meta.size),
                storage_class: Some(ObjectStorageClass::from_static(ObjectStorageClass::STANDARD)),
                ..Object::default()
            }),
            Listed::Prefix(p) => prefixes.push(CommonPrefix { prefix: Some(encode(p, how)) }),
        }
    }
    (objects, prefixes)
}

fn page_size(max_keys: Option<i32>) -> S3Result<usize> {
    usize::try_from(max_keys.unwrap_or(PAGE).min(PAGE)).map_err(|_| s3_error!(InvalidArgument, "max-keys is negative"))
}

#[async_trait::async_trait]
impl S3 for S3Ops {
    async fn create_bucket(&self, req: S3Request<CreateBucketInput>) -> S3Result<S3Response<CreateBucketOutput>> {
        let location = Some(format!("/{}", req.input.bucket));
        self.disk.create_bucket(&req.input.bucket)?;
        Ok(S3Response::new(CreateBucketOutput { location }))
    }

    async fn delete_bucket(&self, req: S3Request<DeleteBucketInput>) -> S3Result<S3Response<DeleteBucketOutput>> {
        self.disk.delete_bucket(&req.input.bucket)?;
        Ok(S3Response::new(DeleteBucketOutput::default()))
    }

    async fn head_bucket(&self, req: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        self.disk.has_bucket(&req.input.bucket)?;
        Ok(S3Response::new(HeadBucketOutput::default()))
    }

    async fn get_bucket_location(
        &self,
        req: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        self.disk.has_bucket(&req.input.bucket)?;
        Ok(S3Response::new(GetBucketLocationOutput::default()))
    }

    async fn list_buckets(&self, _: S3Request<ListBucketsInput>) -> S3Result<S3Response<ListBucketsOutput>> {
        let bucket = |(name, made): (String, std::time::SystemTime)| Bucket {
            creation_date: Some(made.into()),
            name: Some(name),
            ..Bucket::default()
        };
        let buckets = self.disk.buckets()?.into_iter().map(bucket).collect();
        Ok(S3Response::new(ListBucketsOutput { buckets: Some(buckets), ..ListBucketsOutput::default() }))
    }

    async fn put_object(&self, req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let blind = req.extensions.get::<IgnoreIfNoneMatch>().is_some();
        let input = req.input;
        let condition = condition(input.if_none_match.filter(|_| !blind), input.if_match)?;
        let (bucket, key) = (input.bucket, input.key);
        // All of the body first: nothing is locked while a client is slow.
        let body = collect(input.body).await?;
        let meta = self.blocking(move |disk| disk.put(&bucket, &key, &body, &condition)).await?;
        Ok(S3Response::new(PutObjectOutput { e_tag: Some(etag(&meta)), ..PutObjectOutput::default() }))
    }

    async fn get_object(&self, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let input = req.input;
        let open = self.disk.get(&input.bucket, &input.key)?;
        check_read(&open.meta, input.if_match.as_ref(), input.if_none_match.as_ref())?;
        let total = open.meta.size;
        let range = input.range.map(|r| r.check(total)).transpose()?;
        let (start, end) = range.as_ref().map_or((0, total), |r| (r.start, r.end));
        let meta = open.meta.clone();
        let length = end - start;
        let len = usize::try_from(length).map_err(|e| s3_error!(e, EntityTooLarge))?;
        let body = if length <= IN_PLACE {
            open.read(start, len).map_err(DiskError::from)?
        } else {
            self.blocking(move |_| Ok(open.read(start, len)?)).await?
        };
        let output = GetObjectOutput {
            accept_ranges: Some("bytes".into()),
            body: Some(StreamingBlob::from(s3s::Body::from(body))),
            content_length: size(length),
            content_range: range.map(|r| format!("bytes {}-{}/{total}", r.start, r.end.saturating_sub(1))),
            content_type: Some("binary/octet-stream".into()),
            e_tag: Some(etag(&meta)),
            last_modified: Some(meta.modified.into()),
            ..GetObjectOutput::default()
        };
        Ok(S3Response::new(output))
    }

    async fn head_object(&self, req: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let input = req.input;
        let meta = self.disk.get(&input.bucket, &input.key)?.meta;
        check_read(&meta, input.if_match.as_ref(), input.if_none_match.as_ref())?;
        let output = HeadObjectOutput {
            accept_ranges: Some("bytes".into()),
            content_length: size(meta.size),
            content_type: Some("binary/octet-stream".into()),
            e_tag: Some(etag(&meta)),
            last_modified: Some(meta.modified.into()),
            ..HeadObjectOutput::default()
        };
        Ok(S3Response::new(output))
    }

    async fn copy_object(&self, req: S3Request<CopyObjectInput>) -> S3Result<S3Response<CopyObjectOutput>> {
        let none_match = req.headers.get(http::header::IF_NONE_MATCH).filter(|v| v.as_bytes() == b"*");
        let condition = if none_match.is_some() { Condition::Absent } else { Condition::Always };
        let input = req.input;
        let CopySource::Bucket { bucket: from_bucket, key: from, .. } = input.copy_source else {
            return Err(s3_error!(NotImplemented));
        };
        let (bucket, key) = (input.bucket, input.key);
        let copy = move |disk: &Disk| {
            let open = disk.get(&from_bucket, &from)?;
            let len = usize::try_from(open.meta.size).map_err(|_| DiskError::Key("too large to copy"))?;
            disk.put(&bucket, &key, &[open.read(0, len)?], &condition)
        };
        let meta = self.blocking(copy).await?;
        let result = CopyObjectResult {
            e_tag: Some(etag(&meta)),
            last_modified: Some(meta.modified.into()),
            ..CopyObjectResult::default()
        };
        Ok(S3Response::new(CopyObjectOutput { copy_object_result: Some(result), ..CopyObjectOutput::default() }))
    }

    async fn delete_object(&self, req: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        let input = req.input;
        self.blocking(move |disk| disk.delete(&input.bucket, &input.key)).await?;
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(&self, req: S3Request<DeleteObjectsInput>) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let input = req.input;
        self.disk.has_bucket(&input.bucket)?;
        if input.delete.objects.len() > 1000 {
            return Err(s3_error!(MalformedXML, "more than 1000 keys"));
        }
        let quiet = input.delete.quiet.unwrap_or(false);
        let delete = move |disk: &Disk| {
            let (mut deleted, mut errors) = (Vec::new(), Vec::new());
            for object in input.delete.objects {
                match disk.delete(&input.bucket, &object.key) {
                    Ok(()) if quiet => {}
                    Ok(()) => deleted.push(DeletedObject { key: Some(object.key), ..DeletedObject::default() }),
                    Err(e) => errors.push(Error {
                        key: Some(object.key),
                        code: Some("InternalError".into()),
                        message: Some(e.to_string()),
                        ..Error::default()
                    }),
                }
            }
            Ok((deleted, errors))
        };
        let (deleted, errors) = self.blocking(delete).await?;
        let output = DeleteObjectsOutput { deleted: Some(deleted), errors: Some(errors), request_charged: None };
        Ok(S3Response::new(output))
    }

    async fn list_objects_v2(&self, req: S3Request<ListObjectsV2Input>) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = req.input;
        let mut query = ListQuery {
            prefix: input.prefix.clone().unwrap_or_default(),
            delimiter: input.delimiter.clone().unwrap_or_default(),
            after: input.start_after.clone().unwrap_or_default(),
            beyond: None,
            limit: page_size(input.max_keys)?,
        };
        if let Some(token) = &input.continuation_token {
            begin_at(&mut query, token)?;
        }
        let limit = query.limit;
        let bucket = input.bucket.clone();
        let listing = self.blocking(move |disk| disk.list(&bucket, &query)).await?;
        let truncated = listing.truncated;
        let next = listing.items.last().filter(|_| truncated).map(token_of);
        let how = input.encoding_type.as_ref();
        let (objects, prefixes) = lines(listing, how);
        let output = ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: input.prefix.map(|p| encode(p, how)),
            max_keys: i32::try_from(limit).ok(),
            key_count: i32::try_from(objects.len() + prefixes.len()).ok(),
            continuation_token: input.continuation_token,
            is_truncated: Some(truncated),
            next_continuation_token: next,
            contents: Some(objects),
            common_prefixes: Some(prefixes),
            delimiter: input.delimiter.map(|d| encode(d, how)),
            start_after: input.start_after.map(|a| encode(a, how)),
            encoding_type: input.encoding_type,
            request_charged: None,
        };
        Ok(S3Response::new(output))
    }

    async fn list_objects(&self, req: S3Request<ListObjectsInput>) -> S3Result<S3Response<ListObjectsOutput>> {
        let input = req.input;
        let marker = input.marker.clone().unwrap_or_default();
        let delimiter = input.delimiter.clone().unwrap_or_default();
        // A marker that is a common prefix means: beyond all of it.
        let beyond = (!delimiter.is_empty() && marker.ends_with(&delimiter)).then(|| marker.clone());
        let query = ListQuery {
            prefix: input.prefix.clone().unwrap_or_default(),
            delimiter,
            after: marker,
            beyond,
            limit: page_size(input.max_keys)?,
        };
        let limit = query.limit;
        let bucket = input.bucket.clone();
        let listing = self.blocking(move |disk| disk.list(&bucket, &query)).await?;
        let truncated = listing.truncated;
        let how = input.encoding_type.as_ref();
        let next = listing.items.last().filter(|_| truncated).map(|last| match last {
            Listed::Object(key, _) | Listed::Prefix(key) => encode(key.clone(), how),
        });
        let (objects, prefixes) = lines(listing, how);
        let output = ListObjectsOutput {
            name: Some(input.bucket),
            prefix: input.prefix.map(|p| encode(p, how)),
            marker: Some(encode(input.marker.unwrap_or_default(), how)),
            max_keys: i32::try_from(limit).ok(),
            is_truncated: Some(truncated),
            contents: Some(objects),
            common_prefixes: Some(prefixes),
            delimiter: input.delimiter.map(|d| encode(d, how)),
            next_marker: next,
            encoding_type: input.encoding_type,
            request_charged: None,
        };
        Ok(S3Response::new(output))
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        self.disk.has_bucket(&req.input.bucket)?;
        Ok(S3Response::new(self.uploads.create(req.input)))
    }

    async fn upload_part(&self, req: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
        let mut input = req.input;
        let body = collect(input.body.take()).await?;
        Ok(S3Response::new(self.uploads.part(&self.disk, &input, body)?))
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let uploads = self.uploads.clone();
        let input = req.input;
        let condition = condition(input.if_none_match.clone(), input.if_match.clone())?;
        let (bucket, key) = (input.bucket.clone(), input.key.clone());
        let parts = uploads.finish(input)?;
        let join = move |disk: &Disk| {
            let whole = disk.write_scratch(parts.iter().flat_map(|p| p.read()))?;
            disk.place_scratch(&bucket, &key, whole, &condition).map(|meta| (bucket, key, meta))
        };
        let (bucket, key, meta) = self.blocking(join).await?;
        let output = CompleteMultipartUploadOutput {
            bucket: Some(bucket),
            key: Some(key),
            e_tag: Some(etag(&meta)),
            ..CompleteMultipartUploadOutput::default()
        };
        Ok(S3Response::new(output))
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        self.uploads.abort(&req.input.upload_id)?;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }
}

mod multipart;

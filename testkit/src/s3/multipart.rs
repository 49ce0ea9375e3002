//! Multipart uploads: parts wait in scratch files until they are joined.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use s3s::dto::*;
use s3s::{S3Result, s3_error};

use crate::disk::{Disk, Scratch};

/// Bytes of a part that are held at once while parts are joined.
const CHUNK: u64 = 8 << 20;

/// One part that has arrived.
pub(super) struct Part {
    file: Scratch,
    tag: String,
}

impl Part {
    /// Its bytes, in chunks.
    pub fn read(&self) -> impl Iterator<Item = io::Result<Bytes>> + '_ {
        let size = self.file.size();
        let chunks = size.as_ref().map_or(1, |n| n.div_ceil(CHUNK));
        (0..chunks).map(move |i| {
            let size = *size.as_ref().map_err(|e| io::Error::from(e.kind()))?;
            self.file.read(i * CHUNK, (size - i * CHUNK).min(CHUNK))
        })
    }
}

struct Upload {
    bucket: String,
    key: String,
    parts: BTreeMap<i32, Part>,
}

/// The uploads under way.
#[derive(Default)]
pub(super) struct Uploads {
    last: AtomicU64,
    open: Mutex<HashMap<String, Upload>>,
}

impl Uploads {
    pub fn create(&self, input: CreateMultipartUploadInput) -> CreateMultipartUploadOutput {
        let id = format!("upload-{}", self.last.fetch_add(1, Ordering::Relaxed));
        let upload = Upload { bucket: input.bucket.clone(), key: input.key.clone(), parts: BTreeMap::new() };
        self.open.lock().insert(id.clone(), upload);
        CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(id),
            ..CreateMultipartUploadOutput::default()
        }
    }

    pub fn part(&self, disk: &Disk, input: &UploadPartInput, body: Vec<Bytes>) -> S3Result<UploadPartOutput> {
        let file = disk.write_scratch(body.into_iter().map(Ok)).map_err(|e| s3_error!(e, InternalError))?;
        let tag = format!("{}-part-{}", input.upload_id, self.last.fetch_add(1, Ordering::Relaxed));
        let mut open = self.open.lock();
        let upload = open.get_mut(&input.upload_id).ok_or_else(|| s3_error!(NoSuchUpload))?;
        upload.parts.insert(input.part_number, Part { file, tag: tag.clone() });
        Ok(UploadPartOutput { e_tag: Some(ETag::Strong(tag)), ..UploadPartOutput::default() })
    }

    /// Takes the upload's parts, in the order that the request names.
    pub fn finish(&self, input: CompleteMultipartUploadInput) -> S3Result<Vec<Part>> {
        let mut upload = self.open.lock().remove(&input.upload_id).ok_or_else(|| s3_error!(NoSuchUpload))?;
        if (upload.bucket, upload.key) != (input.bucket, input.key) {
            return Err(s3_error!(NoSuchUpload));
        }
        let asked = input.multipart_upload.and_then(|m| m.parts).unwrap_or_default();
        let numbers: Vec<i32> = asked.iter().filter_map(|p| p.part_number).collect();
        if numbers.is_empty() || numbers.len() != asked.len() || !numbers.is_sorted_by(|a, b| a < b) {
            return Err(s3_error!(InvalidPartOrder));
        }
        let take = |p: CompletedPart| {
            let part = upload.parts.remove(&p.part_number?)?;
            p.e_tag.is_none_or(|t| t.value() == part.tag).then_some(part)
        };
        asked.into_iter().map(take).collect::<Option<_>>().ok_or_else(|| s3_error!(InvalidPart))
    }

    pub fn abort(&self, id: &str) -> S3Result<()> {
        self.open.lock().remove(id).map(drop).ok_or_else(|| s3_error!(NoSuchUpload))
    }
}

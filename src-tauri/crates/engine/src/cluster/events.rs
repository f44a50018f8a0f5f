//! The body of a watch: one event a line, in JSON.

use std::{marker::PhantomData, pin::Pin};

use bytes::BytesMut;
use http_body_util::BodyExt as _;
use kube::{client::Body, core::WatchEvent};
use serde::de::DeserializeOwned;

use super::api::CallError;

/// More than the largest object that etcd takes (1.5 MB) is as JSON.
const MAX_LINE: usize = 8 << 20;

/// The events of a watch that was begun.
pub(super) struct Events<K> {
    body: Pin<Box<Body>>,
    read: BytesMut,
    /// So much of what was read has no line's end.
    searched: usize,
    of: PhantomData<fn() -> K>,
}

impl<K: DeserializeOwned + Clone> Events<K> {
    pub(super) fn new(body: Body) -> Self {
        Self {
            body: Box::pin(body),
            read: BytesMut::new(),
            searched: 0,
            of: PhantomData,
        }
    }

    /// The next event; none after the last one.
    pub(super) async fn next(&mut self) -> Result<Option<WatchEvent<K>>, CallError> {
        while let Some(line) = self.line().await? {
            if !line.trim_ascii().is_empty() {
                let event = serde_json::from_slice(&line);
                return event.map_err(|error| CallError::Malformed(error.into()));
            }
        }
        Ok(None)
    }

    /// The next line; the last one may lack its end.
    async fn line(&mut self) -> Result<Option<BytesMut>, CallError> {
        loop {
            let unsearched = self.read.iter().skip(self.searched);
            if let Some(end) = unsearched.clone().position(|byte| *byte == b'\n') {
                let line = self.read.split_to(self.searched + end + 1);
                self.searched = 0;
                return Ok(Some(line));
            }
            self.searched = self.read.len();
            if self.searched > MAX_LINE {
                return Err(CallError::Malformed("a line without an end".into()));
            }
            match self.body.frame().await {
                Some(frame) => {
                    let frame = frame.map_err(|error| CallError::Transport(error.into()))?;
                    self.read
                        .extend_from_slice(frame.data_ref().map_or(&[], |data| data));
                }
                None if self.read.is_empty() => return Ok(None),
                None => {
                    self.searched = 0;
                    return Ok(Some(self.read.split()));
                }
            }
        }
    }
}

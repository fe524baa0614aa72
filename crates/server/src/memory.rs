//! What the server takes of the budget beside its models: connections, bodies of requests, documents, and grammars.
//!
//! Each part has a bound that requests cannot pass; models get what is left. Requests that find a part used up wait or are
//! told to come again.

use crate::connections::BUFFER_BYTES;
use crate::error::{ApiError, ApiResult};
use axum::http::StatusCode;
use rawrz_documents::Limits;
use rawrz_engine::Size;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

const MIB: u64 = 1 << 20;

/// A connection: what is read and what waits to be written, and 64 pieces of an answer that wait for a slow reader.
const CONNECTION_BYTES: u64 = 2 * BUFFER_BYTES as u64 + (32 << 10);

/// A body in memory: as it came, its texts in what it is read into and in the prompt that is made of them.
const BODY_COPIES: u64 = 4;

/// A value of JSON: 72 bytes in a list that has grown to twice what it holds, or an object with its table.
const JSON_VALUE_BYTES: u64 = 512;

/// A number of a vector, and its text in an answer.
const NUMBER_BYTES: u64 = 4 + 16;

/// A log-probability in an answer that is put together: token, number and bytes as JSON, and their text.
const LOGPROB_BYTES: u64 = 1 << 10;

/// How long a request waits for others to give their memory back.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// Bytes that a permit of the bodies' part stands for.
const UNIT: u64 = 1 << 10;

/// What a document takes at most beyond its [`Limits`], as a multiple of the bytes of its file: the default limits, of which
/// the file is 32 MiB, stay below 256 MiB with one document at a time: file and its copy while it comes, two parts unpacked
/// one from the other, what is kept, the text and its JSON.
const DOCUMENT_PART: u64 = 8;

/// The parts.
pub(crate) struct ServerMemory {
    connections_bytes: u64,
    bodies_bytes: u64,
    documents_bytes: u64,
    bodies: Arc<Semaphore>,
}

impl ServerMemory {
    /// Parts that grow with the budget, as far as they are of use.
    pub(crate) fn of(budget_bytes: Option<u64>) -> ServerMemory {
        let part = |of: u64, least: u64, most: u64| {
            budget_bytes.map_or(most * MIB, |budget| (budget / of).clamp(least * MIB, most * MIB))
        };
        let bodies_bytes = part(32, 8, 256);
        ServerMemory {
            connections_bytes: part(64, 8, 96),
            bodies_bytes,
            documents_bytes: part(16, 8, 256),
            bodies: Arc::new(Semaphore::new((bodies_bytes / UNIT) as usize)),
        }
    }

    /// What each part is for, and its bytes.
    pub(crate) fn lines(&self) -> [(&'static str, u64); 3] {
        [
            ("connections", self.connections_bytes),
            ("requests and answers", self.bodies_bytes),
            ("documents", self.documents_bytes),
        ]
    }

    pub(crate) fn total_bytes(&self) -> u64 {
        self.lines().iter().map(|(_, bytes)| bytes).sum()
    }

    /// Connections that there is memory for, of those that are wanted.
    pub(crate) fn connections(&self, wanted: usize) -> usize {
        wanted.min((self.connections_bytes / CONNECTION_BYTES) as usize).max(1)
    }

    /// The limits of a document that is read alone.
    pub(crate) fn document_limits(&self, max_body_bytes: usize) -> Limits {
        let whole = Limits::default();
        let of = |bytes: usize| {
            (bytes as u64 * self.documents_bytes / (whole.max_file_bytes as u64 * DOCUMENT_PART)) as usize
        };
        Limits {
            max_file_bytes: of(whole.max_file_bytes).min(max_body_bytes),
            max_part_bytes: of(whole.max_part_bytes),
            max_kept_bytes: of(whole.max_kept_bytes),
            max_text_bytes: of(whole.max_text_bytes),
            ..whole
        }
    }

    /// Longest body of JSON that there can ever be room for, of those that are wanted.
    pub(crate) fn max_body_bytes(&self, wanted: usize) -> usize {
        wanted.min((self.bodies_bytes / BODY_COPIES) as usize)
    }

    /// Room for a body of up to `len` bytes; waits for others to give theirs back.
    pub(crate) async fn body_room(&self, len: usize) -> ApiResult<BodyRoom> {
        self.room(units(len as u64 * BODY_COPIES)).await
    }

    /// Room for an answer that is told whole and has `n` numbers of a vector, to be kept until it is written.
    pub(crate) async fn vectors_room(&self, n: usize) -> ApiResult<BodyRoom> {
        self.answer_room((n as u64).saturating_mul(NUMBER_BYTES), "send fewer texts").await
    }

    /// The same with up to `n` log-probabilities.
    pub(crate) async fn logprobs_room(&self, n: usize) -> ApiResult<BodyRoom> {
        let bytes = (n as u64).saturating_mul(LOGPROB_BYTES);
        self.answer_room(bytes, "ask for fewer tokens or log-probabilities, or for a stream").await
    }

    async fn answer_room(&self, bytes: u64, instead: &str) -> ApiResult<BodyRoom> {
        if bytes > self.bodies_bytes {
            let most = Size(self.bodies_bytes);
            return Err(ApiError::bad(format!("the answer may take more than {most} of memory; {instead}")));
        }
        self.room(units(bytes)).await
    }

    async fn room(&self, n: u32) -> ApiResult<BodyRoom> {
        let waiting = tokio::time::timeout(MAX_WAIT, Arc::clone(&self.bodies).acquire_many_owned(n)).await;
        let busy = || ApiError::busy("other requests and answers take the memory there is for them");
        let permit = waiting.map_err(|_| busy())?.map_err(|_| busy())?;
        Ok(BodyRoom { permit, total: (self.bodies_bytes / UNIT) as usize })
    }
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

/// Memory that a body may take. Given back when dropped.
pub(crate) struct BodyRoom {
    permit: OwnedSemaphorePermit,
    /// Permits there are.
    total: usize,
}

impl BodyRoom {
    /// Takes what the values of `body` take beyond its bytes, and gives back what it was longer thought to be.
    pub(crate) fn fit(mut self, body: &[u8]) -> ApiResult<BodyRoom> {
        let values = n_values(body);
        let needed = units(body.len() as u64 * BODY_COPIES + values * JSON_VALUE_BYTES) as usize;
        let has = self.permit.num_permits();
        if needed < has {
            drop(self.permit.split(has - needed));
        } else if needed > has {
            let problem = format!("the body has {values} values of JSON");
            if needed > self.total {
                let problem = format!("{problem}, more than there is memory for");
                return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, problem));
            }
            // Nobody waits here, since those who wait hold what others wait for.
            let more = u32::try_from(needed - has).unwrap_or(u32::MAX);
            let semaphore = Arc::clone(self.permit.semaphore());
            let busy = |_| ApiError::busy(format!("{problem}, for which there is no memory now"));
            let more = semaphore.try_acquire_many_owned(more).map_err(busy)?;
            self.permit.merge(more);
        }
        Ok(self)
    }
}

/// Values that a JSON text has at most: those after a comma, a colon or an opening bracket outside of its strings.
fn n_values(json: &[u8]) -> u64 {
    let (mut n, mut in_string, mut is_escaped) = (1, false, false);
    for byte in json {
        match (in_string, byte) {
            (true, _) if is_escaped => is_escaped = false,
            (true, b'\\') => is_escaped = true,
            (_, b'"') => in_string = !in_string,
            (false, b',' | b':' | b'[' | b'{') => n += 1,
            _ => {}
        }
    }
    n
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_grow_with_the_budget_and_stay_within() {
        let small = ServerMemory::of(Some(100 << 20));
        let large = ServerMemory::of(None);
        assert_eq!(small.total_bytes(), 24 << 20);
        assert!(large.total_bytes() <= 608 << 20);
        assert_eq!(large.connections(1024), 1024);
        assert!(small.connections(1024) >= 64);
        assert_eq!(large.document_limits(32 << 20), Limits::default());
        let limits = small.document_limits(32 << 20);
        assert!(limits.max_file_bytes == 1 << 20 && limits.max_kept_bytes == 2 << 20, "{limits:?}");
        for bytes in [0, 1 << 20, 1 << 30, u64::MAX] {
            let of = ServerMemory::of(Some(bytes));
            let doubled = ServerMemory::of(Some(bytes.saturating_mul(2)));
            assert!(of.total_bytes() <= doubled.total_bytes());
        }
    }

    #[test]
    fn values_are_counted_outside_of_strings() {
        for (json, n) in [
            ("1", 1),
            ("[]", 2),
            ("[1,2]", 3),
            (r#"{"a": 1, "b": [2]}"#, 6),
            (r#""a, [b]""#, 1),
            (r#"["\",", "\\", 1]"#, 4),
            (r#"["#, 2),
        ] {
            assert!(n_values(json.as_bytes()) >= n, "{json}");
        }
        assert_eq!(n_values(r#""a, \"[b]""#.as_bytes()), 1);
    }

    #[tokio::test]
    async fn bodies_share_what_there_is() {
        let memory = ServerMemory::of(Some(100 << 20));
        let most = memory.max_body_bytes(usize::MAX);
        assert_eq!(most, 2 << 20);
        let free = memory.bodies.available_permits();
        let room = memory.body_room(most).await.unwrap();
        assert_eq!(memory.bodies.available_permits(), 0);
        // A short body gives back what it does not take, one of many values takes more, and one of too many is refused.
        let room = room.fit(b"{}").unwrap();
        assert!(memory.bodies.available_permits() > free - 4);
        let room = room.fit("[1,2,3]".repeat(100).as_bytes()).unwrap();
        assert!(memory.bodies.available_permits() < free - 100);
        let others = memory.body_room(most / 2).await.unwrap();
        let many = ",".repeat(10_000);
        assert_eq!(room.fit(many.as_bytes()).err().unwrap().retry_after, Some(1));
        drop(others);
        let room = memory.body_room(10_000).await.unwrap();
        let too_many = room.fit(many.repeat(2).as_bytes()).err().unwrap();
        assert_eq!(too_many.status, StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(memory.bodies.available_permits(), free, "all is given back");
        assert!(memory.vectors_room(100 * 4096).await.is_ok() && memory.logprobs_room(4096).await.is_ok());
        assert_eq!(memory.vectors_room(2048 * 4096).await.err().unwrap().status, StatusCode::BAD_REQUEST);
        assert_eq!(memory.logprobs_room(usize::MAX).await.err().unwrap().status, StatusCode::BAD_REQUEST);
    }
}

//! The host's side of [`hull_protocol::transfer`]: one connection to the agent for each question.
//!
//! Owner: the handler that asks. Invariant: what the agent sends is passed on in pieces of at most a chunk; its
//! messages are bounded.

use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use hull_protocol::agent::{AgentError, AgentErrorKind};
use hull_protocol::transfer::{Answer, CHUNK_MAX, Query, TRANSFER_PORT, chunk_length, chunk_prefix};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::agent::{dial, read_message, write_message};

/// How long the agent may take to answer a question.
const ANSWER_WAIT: Duration = Duration::from_secs(60);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The agent says so.
    #[error("{0}")]
    Agent(#[from] AgentError),
    /// The connection failed.
    #[error("the connection to the guest failed")]
    Io(#[from] io::Error),
    /// The agent does not speak the protocol.
    #[error("the guest's agent gave an answer to another question")]
    Protocol,
    /// The client's own stream failed.
    #[error("the request's body broke off: {0}")]
    Body(String),
}

/// A question that has been answered; for files, the connection they go over.
pub struct Transfer {
    /// The answer.
    pub answer: Answer,
    connection: UnixStream,
}

impl Transfer {
    /// Asks.
    ///
    /// # Errors
    /// When the agent refuses or the connection fails.
    pub(super) async fn ask(vsock: &Path, query: &Query) -> Result<Self, TransferError> {
        let asked = async {
            let mut connection = dial(vsock, TRANSFER_PORT).await?;
            write_message(&mut connection, query).await?;
            let answer: Option<Result<Answer, AgentError>> = read_message(&mut connection).await?;
            Ok::<_, TransferError>((answer.ok_or(TransferError::Protocol)??, connection))
        };
        let silent = |_| AgentError {
            kind: AgentErrorKind::Failed,
            message: format!("the guest's agent did not answer within {ANSWER_WAIT:?}"),
        };
        let (answer, connection) = tokio::time::timeout(ANSWER_WAIT, asked).await.map_err(silent)??;
        Ok(Self { answer, connection })
    }

    /// The archive that the agent sends; its last item says whether it was whole.
    pub fn archive(self) -> impl Stream<Item = Result<Bytes, TransferError>> {
        futures_util::stream::unfold(Some(self.connection), async |connection| {
            let mut connection = connection?;
            match chunk(&mut connection).await {
                Ok(Some(chunk)) => Some((Ok(chunk), Some(connection))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    /// Sends an archive; returns when the agent has written it all.
    ///
    /// # Errors
    /// When it could not be written, or broke off.
    pub async fn send(
        self,
        archive: impl Stream<Item = Result<Bytes, String>> + Unpin,
    ) -> Result<(), TransferError> {
        let (mut source, mut sink) = self.connection.into_split();
        // A refusal may come at any time, and says more than the broken connection after it.
        tokio::select! {
            biased;
            verdict = verdict(&mut source) => verdict,
            sent = send_all(archive, &mut sink) => {
                sent?;
                verdict(&mut source).await
            }
        }
    }
}

/// The next chunk; none after the last, when the archive was whole.
async fn chunk(connection: &mut UnixStream) -> Result<Option<Bytes>, TransferError> {
    let mut prefix = [0; 4];
    connection.read_exact(&mut prefix).await?;
    let length = chunk_length(prefix).ok_or(TransferError::Protocol)?;
    if length == 0 {
        let verdict: Option<Result<(), AgentError>> = read_message(connection).await?;
        return Ok(verdict.ok_or(TransferError::Protocol)?.map(|()| None)?);
    }
    let mut bytes = vec![0; length];
    connection.read_exact(&mut bytes).await?;
    Ok(Some(bytes.into()))
}

async fn send_all(
    mut archive: impl Stream<Item = Result<Bytes, String>> + Unpin,
    sink: &mut OwnedWriteHalf,
) -> Result<(), TransferError> {
    while let Some(piece) = archive.next().await {
        let piece = piece.map_err(TransferError::Body)?;
        for chunk in piece.chunks(CHUNK_MAX).filter(|chunk| !chunk.is_empty()) {
            sink.write_all(&chunk_prefix(chunk.len()).ok_or(TransferError::Protocol)?).await?;
            sink.write_all(chunk).await?;
        }
    }
    Ok(sink.write_all(&[0; 4]).await?)
}

async fn verdict(source: &mut OwnedReadHalf) -> Result<(), TransferError> {
    let verdict: Option<Result<(), AgentError>> = read_message(source).await?;
    Ok(verdict.ok_or(TransferError::Protocol)??)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]

    use super::*;

    fn pair() -> (Transfer, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Transfer { answer: Answer::Ready, connection: ours }, theirs)
    }

    async fn say(agent: &mut UnixStream, bytes: &[u8]) {
        agent.write_all(&u32::try_from(bytes.len()).unwrap().to_le_bytes()).await.unwrap();
        agent.write_all(bytes).await.unwrap();
    }

    async fn collect(transfer: Transfer) -> Result<Vec<u8>, TransferError> {
        let mut archive = Box::pin(transfer.archive());
        let mut all = Vec::new();
        while let Some(piece) = archive.next().await {
            all.extend(piece?);
        }
        Ok(all)
    }

    #[tokio::test]
    async fn an_archive_is_whole_only_when_the_agent_says_so() {
        let (transfer, mut agent) = pair();
        for piece in [&b"abc"[..], b"de", b""] {
            say(&mut agent, piece).await;
        }
        write_message(&mut agent, &Ok::<(), AgentError>(())).await.unwrap();
        assert_eq!(collect(transfer).await.unwrap(), b"abcde");
        let (transfer, mut agent) = pair();
        for piece in [&b"abc"[..], b""] {
            say(&mut agent, piece).await;
        }
        let refusal = AgentError { kind: AgentErrorKind::Failed, message: "no more".into() };
        write_message(&mut agent, &Err::<(), _>(refusal)).await.unwrap();
        assert_eq!(collect(transfer).await.unwrap_err().to_string(), "no more");
        // One that breaks off, and one that lies about a length.
        let (transfer, mut agent) = pair();
        say(&mut agent, b"abc").await;
        drop(agent);
        assert!(matches!(collect(transfer).await, Err(TransferError::Io(_))));
        let (transfer, mut agent) = pair();
        agent.write_all(&[0xff; 4]).await.unwrap();
        assert!(matches!(collect(transfer).await, Err(TransferError::Protocol)));
    }

    #[tokio::test]
    async fn a_refusal_ends_the_sending() {
        let (transfer, mut agent) = pair();
        let refusal = AgentError { kind: AgentErrorKind::Failed, message: "the disk is full".into() };
        write_message(&mut agent, &Err::<(), _>(refusal)).await.unwrap();
        let endless = futures_util::stream::repeat_with(|| Ok(Bytes::from_static(&[7; 1000])));
        assert_eq!(transfer.send(endless).await.unwrap_err().to_string(), "the disk is full");
        let (transfer, _agent) = pair();
        let broken = futures_util::stream::iter([Err("cut".to_owned())]);
        assert!(matches!(transfer.send(broken).await, Err(TransferError::Body(_))));
    }
}

//! A client that does not read its answer loses its connection: it would hold the answer's memory and a descriptor for as
//! long as it likes, and reading a byte now and then would be enough for it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// A stream on which one answer has to be taken within a limit.
pub(crate) struct Impatient<S> {
    stream: S,
    limit: Duration,
    /// When the answer that is being written has to be taken.
    until: Pin<Box<Sleep>>,
    is_writing: bool,
}

impl<S> Impatient<S> {
    pub(crate) fn new(stream: S, limit: Duration) -> Self {
        Self {
            stream,
            limit,
            until: Box::pin(sleep(limit)),
            is_writing: false,
        }
    }

    /// Ready, with an error, when the answer has taken too long.
    fn poll_limit(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        if !self.is_writing {
            self.is_writing = true;
            self.until.as_mut().reset(Instant::now() + self.limit);
        }
        ready!(self.until.as_mut().poll(context));
        let text = format!("the answer was not read within {:?}", self.limit);
        Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, text))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(error) = self.poll_limit(context) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(error) = self.poll_limit(context) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_flush(context) {
            // All of it is on its way: what the kernel holds is bounded, and its own timeouts apply.
            Poll::Ready(flushed) => {
                self.is_writing = false;
                Poll::Ready(flushed)
            }
            Poll::Pending => self.poll_limit(context).map(Err),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_shutdown(context) {
            Poll::Pending => self.poll_limit(context).map(Err),
            done => done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    const LIMIT: Duration = Duration::from_millis(200);

    #[tokio::test]
    async fn who_reads_too_slowly_is_cut_off_and_others_are_not() {
        let (client, server) = duplex(64);
        let (mut reader, _open) = tokio::io::split(client);
        let mut server = Impatient::new(server, LIMIT);
        let slow = tokio::spawn(async move {
            let mut byte = [0; 1];
            while matches!(reader.read(&mut byte).await, Ok(count) if count > 0) {
                tokio::time::sleep(LIMIT / 10).await;
            }
        });
        let error = server.write_all(&[0; 10_000]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(server);
        slow.await.unwrap();
    }

    #[tokio::test]
    async fn a_connection_that_is_kept_has_the_whole_time_for_each_answer() {
        let (mut client, server) = duplex(64);
        let mut server = Impatient::new(server, LIMIT);
        for _ in 0..3 {
            server.write_all(&[0; 32]).await.unwrap();
            server.flush().await.unwrap();
            client.read_exact(&mut [0; 32]).await.unwrap();
            tokio::time::sleep(LIMIT * 2).await;
        }
    }
}

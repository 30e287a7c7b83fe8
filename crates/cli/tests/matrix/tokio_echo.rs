//! A server of tokio's, which this program is when it is started with `tokio-echo PORT`.

use std::process::ExitCode;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Echoes, on two threads; each connection is also told on by a second one to itself when its first byte is `>`.
pub(crate) fn serve(port: &str) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let ended = runtime.and_then(|runtime| runtime.block_on(accept_all(port)));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tokio-echo: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn accept_all(words: &str) -> std::io::Result<()> {
    // `PORT`: a server. `PORT>ADDRESS`: a server that asks another one.
    let (port, onward) =
        words.split_once('>').map_or((words, None), |(port, to)| (port, Some(to.to_owned())));
    let listener = TcpListener::bind(format!("0.0.0.0:{port}")).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let onward = onward.clone();
        tokio::spawn(async move {
            let done = match onward {
                None => echo(stream).await,
                Some(to) => relay(stream, &to).await,
            };
            if let Err(error) = done {
                eprintln!("tokio-echo: a connection: {error}");
            }
        });
    }
}

async fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    let mut bytes = vec![0; 40_000];
    loop {
        let n = stream.read(&mut bytes).await?;
        if n == 0 {
            return stream.shutdown().await;
        }
        stream.write_all(bytes.get(..n).unwrap_or_default()).await?;
    }
}

async fn relay(mut stream: TcpStream, to: &str) -> std::io::Result<()> {
    let mut other = TcpStream::connect(to).await?;
    other.set_nodelay(true)?;
    tokio::io::copy_bidirectional(&mut stream, &mut other).await.map(|_| ())
}

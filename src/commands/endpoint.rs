//! What the commands ask of the admin endpoint of a sidecar that runs beside them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::phrase;

/// Longest wait for one answer.
const ANSWER: Duration = Duration::from_secs(2);

/// What is said of one whose answer is another than ours.
pub(super) const STRANGER: &str = "it is no slipring, or an older one";

/// Where an endpoint that listens there can be reached from here.
pub(super) const fn reachable(listens: SocketAddr) -> SocketAddr {
    let ip = match listens.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listens.port())
}

/// Asks for a path.
///
/// # Errors
/// One line, when there is no answer within two seconds.
pub(super) async fn get(admin: SocketAddr, path: &str) -> Result<Bytes, String> {
    let asked = async {
        let stream = TcpStream::connect(admin).await.map_err(|error| phrase::of(&error))?;
        let (mut sender, connection) =
            http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await.map_err(|error| phrase::of(&error))?;
        let request = Request::get(path).header(header::HOST, admin.to_string()).body(Empty::new());
        let request = request.map_err(|error| error.to_string())?;
        let answer = async {
            let response = sender.send_request(request).await?;
            response.into_body().collect().await
        };
        let driven = async {
            // It ends when the answer has come.
            let _ = connection.await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            body = answer => Ok(body.map_err(|error| phrase::of(&error))?.to_bytes()),
            () = driven => Err(io::Error::from(io::ErrorKind::UnexpectedEof).to_string()),
        }
    };
    timeout(ANSWER, asked).await.unwrap_or_else(|_| Err(format!("no answer within {} s", ANSWER.as_secs())))
}

//! A node that takes TLS alone, and what is put in front of one today: HAProxy or stunnel, which speak TLS to it and clear
//! text to the app, and in front of these twemproxy where there is a ring.

use std::fs::{self, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::process::{Process, free_address};

/// The files that TLS needs, and those of the programs; removed when dropped.
#[derive(Debug)]
pub(crate) struct Files {
    directory: PathBuf,
}

fn openssl(arguments: &[&str]) -> io::Result<()> {
    let mut command = Command::new("openssl");
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if command.status()?.success() { Ok(()) } else { Err(io::Error::other(format!("openssl {arguments:?} failed"))) }
}

impl Files {
    /// An authority, and a certificate of it for 127.0.0.1; all keys are of the curve P-256.
    pub(crate) fn new() -> io::Result<Self> {
        let this =
            Self { directory: std::env::temp_dir().join(format!("slipring-isolation-tls-{}", std::process::id())) };
        fs::create_dir(&this.directory)?;
        let [ca, ca_key, key, request] = ["ca.pem", "ca.key", "node.key", "node.csr"].map(|name| this.file(name));
        let new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
        openssl(&[&["req", "-x509"], &new[..], &["-keyout", &ca_key, "-out", &ca, "-subj", "/CN=bench"]].concat())?;
        openssl(&[&["req"], &new[..], &["-keyout", &key, "-out", &request, "-subj", "/CN=node"]].concat())?;
        let names = this.write("node.ext", "subjectAltName=IP:127.0.0.1,DNS:node.test\n")?;
        let chain = this.file("node.pem");
        let by = ["-CA", &ca, "-CAkey", &ca_key, "-days", "10"];
        openssl(&[&["x509", "-req", "-in", &request, "-out", &chain, "-extfile", &names], &by[..]].concat())?;
        // memcached runs as another user where the bench runs as root.
        fs::set_permissions(&key, Permissions::from_mode(0o644))?;
        Ok(this)
    }

    fn file(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    fn write(&self, name: &str, content: &str) -> io::Result<String> {
        let path = self.file(name);
        fs::write(Path::new(&path), content)?;
        Ok(path)
    }

    /// What makes a memcached take TLS alone, save at this address.
    pub(crate) fn of_node(&self, in_clear: SocketAddr) -> Vec<String> {
        let certificate = format!("ssl_chain_cert={},ssl_key={}", self.file("node.pem"), self.file("node.key"));
        vec!["-Z".to_owned(), "-o".to_owned(), certificate, "-l".to_owned(), format!("notls:{in_clear}")]
    }

    /// What a slipring in front of it is told.
    pub(crate) fn of_slipring(&self) -> Vec<String> {
        vec!["--node-tls".to_owned(), "--node-tls-ca".to_owned(), self.file("ca.pem")]
    }

    /// HAProxy in front of a node, in TCP mode and on one thread: clear text there, TLS here, verified.
    pub(crate) fn haproxy(&self, node: SocketAddr) -> io::Result<(Process, SocketAddr)> {
        let listen = free_address()?;
        let config = format!(
            "global\n  nbthread 1\n  maxconn 8192\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  \
             timeout server 1h\nlisten node\n  bind {listen}\n  server node {node} ssl verify required \
             verifyhost node.test ca-file {}\n",
            self.file("ca.pem")
        );
        let mut command = Command::new("haproxy");
        command.args(["-db", "-q", "-f", &self.write(&format!("haproxy-{}.cfg", listen.port()), &config)?]);
        Ok((Process::start("haproxy", command, listen, None)?, listen))
    }

    /// The same by stunnel.
    pub(crate) fn stunnel(&self, node: SocketAddr) -> io::Result<(Process, SocketAddr)> {
        let listen = free_address()?;
        let config = format!(
            "foreground = yes\npid =\ndebug = 3\nsocket = l:TCP_NODELAY=1\nsocket = r:TCP_NODELAY=1\n[node]\nclient = yes\n\
             accept = {listen}\nconnect = {node}\nverifyChain = yes\ncheckHost = node.test\nCAfile = {}\n",
            self.file("ca.pem")
        );
        // Debian's name of it; others call it stunnel.
        let mut command = Command::new("stunnel4");
        command.arg(self.write(&format!("stunnel-{}.conf", listen.port()), &config)?);
        Ok((Process::start("stunnel", command, listen, None)?, listen))
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

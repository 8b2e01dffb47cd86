//! Certificates as a test needs them, made by openssl.
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// An authority that signs certificates, and the directory they lie in; that is removed when this is dropped.
pub struct Authority {
    directory: PathBuf,
}

fn openssl(arguments: &[&str]) {
    let output = Command::new("openssl").args(arguments).output().expect("openssl, which tests/run installs");
    assert!(output.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

const KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];

impl Authority {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("secured-{}-{number}", std::process::id());
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&directory).expect("a directory can be made");
        let this = Self { directory };
        this.found("ca");
        this
    }

    /// One more authority, `NAME.pem` and `NAME.key`.
    pub fn found(&self, name: &str) {
        let (key, pem) = (self.file(&format!("{name}.key")), self.file(&format!("{name}.pem")));
        let subject = format!("/CN=Authority {name}");
        let rest = ["-keyout", &key, "-out", &pem, "-subj", &subject, "-days", "30"];
        openssl(&[&["req", "-x509"], &KEY[..], &rest].concat());
    }

    /// The path of a file in the directory.
    pub fn file(&self, name: &str) -> String {
        self.directory.join(name).to_str().expect("a path in UTF-8").to_owned()
    }

    pub fn write(&self, name: &str, content: &str) -> String {
        let draft = self.file(&format!("{name}.draft"));
        fs::write(&draft, content).expect("a file can be written");
        fs::rename(&draft, self.file(name)).expect("a file can be renamed");
        self.file(name)
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.file(name)).expect("a file")
    }

    /// A certificate for 127.0.0.1 and `cache.test`, valid for ten days.
    pub fn certify(&self, name: &str) {
        self.certify_as(name, "IP:127.0.0.1,DNS:cache.test", 10, "ca");
    }

    /// `NAME.pem` and `NAME.key` for these names, for so many days (-1: expired), by that authority.
    pub fn certify_as(&self, name: &str, names: &str, days: i32, authority: &str) {
        let file = |kind: &str| self.file(&format!("{name}.{kind}"));
        let subject = format!("/O=Tests/CN={name}");
        let rest = ["-keyout", &file("key"), "-out", &file("csr"), "-subj", &subject];
        openssl(&[&["req"], &KEY[..], &rest].concat());
        fs::write(file("ext"), format!("subjectAltName={names}\n")).expect("a file can be written");
        let (ca, ca_key) = (self.file(&format!("{authority}.pem")), self.file(&format!("{authority}.key")));
        let (csr, pem, days) = (file("csr"), file("pem"), days.to_string());
        let by = ["-CA", &ca, "-CAkey", &ca_key, "-days", &days];
        let for_whom = ["-in", &csr, "-out", &pem, "-extfile", &file("ext")];
        openssl(&[&["x509", "-req"], &by[..], &for_whom].concat());
        // memcached runs as another user where the tests run as root.
        let open = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o644);
        fs::set_permissions(file("key"), open).expect("permissions can be set");
    }

    /// `NAME.pem` and `NAME.key`, signed by the authority, with these extensions alone; with none it is of X.509 version 1.
    pub fn certify_with(&self, name: &str, extensions: &str) {
        self.certify(name);
        let file = |kind: &str| self.file(&format!("{name}.{kind}"));
        fs::write(file("ext"), extensions).expect("a file can be written");
        let (ca, ca_key, csr, pem, ext) =
            (self.file("ca.pem"), self.file("ca.key"), file("csr"), file("pem"), file("ext"));
        let signed = ["x509", "-req", "-CA", &ca, "-CAkey", &ca_key, "-days", "10", "-in", &csr, "-out", &pem];
        let with: &[&str] = if extensions.is_empty() { &[] } else { &["-extfile", &ext] };
        openssl(&[&signed, with].concat());
    }

    /// What makes a memcached take TLS alone, with this certificate.
    pub fn tls_arguments(&self, certificate: &str) -> Vec<String> {
        let (chain, key) = (self.file(&format!("{certificate}.pem")), self.file(&format!("{certificate}.key")));
        vec!["-Z".to_owned(), "-o".to_owned(), format!("ssl_chain_cert={chain},ssl_key={key}")]
    }

    /// When a certificate expires, in seconds of Unix time, as openssl says.
    pub fn expiry(&self, name: &str) -> u64 {
        let arguments = ["x509", "-noout", "-enddate", "-in", &self.file(&format!("{name}.pem"))];
        let output = Command::new("openssl").args(arguments).output().expect("openssl");
        let text = String::from_utf8(output.stdout).expect("text");
        let date = text.trim().strip_prefix("notAfter=").expect("an end").to_owned();
        let output = Command::new("date").args(["-u", "-d", &date, "+%s"]).output().expect("date");
        String::from_utf8(output.stdout).expect("text").trim().parse().expect("a number")
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}

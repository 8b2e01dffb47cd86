//! How nodes are secured: the options that say so, and the files they name, read and checked.

use rustls::pki_types::ServerName;

use super::cli::ServeArgs;
use super::{Exit, FromEnvironment, source};
use crate::secured::{Options, Secured, TlsOptions};

/// What the options come to, and what is to be warned of.
pub(super) fn secured(serve: &ServeArgs, from_env: &FromEnvironment) -> Result<(Secured, Vec<String>), Exit> {
    let args = &serve.security;
    let by = |option: &str| source(option, from_env);
    let given = [
        ("node-tls-ca", args.node_tls_ca.is_some()),
        ("node-tls-cert", args.node_tls_cert.is_some()),
        ("node-tls-key", args.node_tls_key.is_some()),
        ("node-tls-name", args.node_tls_name.is_some()),
        ("node-tls-insecure", args.node_tls_insecure),
    ];
    if let (false, Some((option, _))) = (args.node_tls, given.iter().find(|(_, given)| *given)) {
        return Err(Exit::usage(&format!("{} has no effect without --node-tls", by(option))));
    }
    let certificate = match (&args.node_tls_cert, &args.node_tls_key) {
        (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
        (None, None) => None,
        (Some(_), None) => return Err(Exit::usage(&format!("{} needs --node-tls-key, too", by("node-tls-cert")))),
        (None, Some(_)) => return Err(Exit::usage(&format!("{} needs --node-tls-cert, too", by("node-tls-key")))),
    };
    if let Some(name) = args.node_tls_name.as_deref().filter(|name| ServerName::try_from(*name).is_err()) {
        return Err(Exit::usage(&format!(
            "{}: {name:?} is no host name that a certificate could have",
            by("node-tls-name")
        )));
    }
    let tls = args.node_tls.then(|| TlsOptions {
        ca: args.node_tls_ca.clone(),
        certificate,
        name: args.node_tls_name.as_deref().map(Into::into),
        is_insecure: args.node_tls_insecure,
    });
    let options = Options { tls, auth_file: args.node_auth_file.clone() };
    let mut warnings = Vec::new();
    if args.node_tls_insecure {
        let unused =
            if args.node_tls_ca.is_some() { format!("; {} is not used", by("node-tls-ca")) } else { String::new() };
        warnings.push(format!(
            "{}: certificates of nodes are not verified; slipring trusts whatever answers at their addresses{unused}",
            by("node-tls-insecure")
        ));
    }
    for (option, path) in options.open_to_all() {
        warnings.push(format!("{}: {} may be read by every user of this machine", by(option), path.display()));
    }
    let secured = Secured::new(options).map_err(|problem| {
        // It begins with the flag; who gave a variable knows that better.
        let (flag, rest) = problem.split_once(": ").unwrap_or(("", &problem));
        Exit::usage(&format!("{}: {rest}", by(flag.trim_start_matches('-'))))
    })?;
    Ok((secured, warnings))
}

mod before;
mod sources;

use super::*;
use crate::routing::Node;

type Env<'a> = &'a [(&'a str, &'a str)];

fn parsed_with(line: &str, env: Env<'_>, cpu_limit: Option<f64>) -> Result<Config, Exit> {
    let args = std::iter::once("slipring").chain(line.split_whitespace()).map(OsString::from);
    let lookup = |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
    parse_within(args, &lookup, Limits { cpus: cpu_limit, memory: None })
}

fn parsed(line: &str, env: Env<'_>) -> Config {
    parsed_with(line, env, None).unwrap_or_else(|exit| panic!("{line} {env:?}: {}", exit.text))
}

/// The line on standard error, without its prefix, of a call that must fail with 64.
fn refused(line: &str, env: Env<'_>) -> String {
    let exit = match parsed_with(line, env, None) {
        Ok(config) => panic!("{line} {env:?} gave {config:?}"),
        Err(exit) => exit,
    };
    assert_eq!((exit.code, exit.stream), (64, Stream::Stderr), "{}", exit.text);
    assert_eq!(exit.text.lines().count(), 1, "{}", exit.text);
    exit.text.strip_prefix("slipring: ").unwrap().to_owned()
}

fn names(config: &Config) -> Vec<String> {
    match &config.command {
        Command::Serve { source: Source::Static(nodes) | Source::Endpoint { first: nodes, .. } } => {
            nodes.iter().map(|node| format!("{}={}", node.name, node.weight)).collect()
        }
        other => panic!("no list in {other:?}"),
    }
}

/// What is listened on by default.
fn localhost_own() -> discovery::Own {
    discovery::Own::new(vec!["127.0.0.1:11211".parse().unwrap(), "[::1]:11211".parse().unwrap()])
}

fn addresses(list: &[&str]) -> Vec<ListenAddress> {
    list.iter().map(|address| ListenAddress::Tcp(address.parse().unwrap())).collect()
}

#[test]
fn defaults() {
    let config = parsed("serve --nodes a", &[]);
    let expected = Config {
        command: Command::Serve { source: Source::Static(vec![Node::new("a", 11211, 1)]) },
        placement: Placement::default(),
        listen: vec![ListenAddress::Localhost(PORT)],
        instance: None,
        unix_mode: 0o700,
        admin_listen: vec!["0.0.0.0:9150".parse().unwrap(), "[::]:9150".parse().unwrap()],
        workers: 1,
        connections_per_node: 1,
        max_value: 128 << 20,
        bulk_above: 1 << 20,
        deny_flush_all: false,
        flush_before: false,
        merge_gets: true,
        on_node_down: OnNodeDown::Miss,
        answer_discovery: AnswerDiscovery::On,
        connect_timeout: Duration::from_millis(250),
        request_timeout: Duration::from_millis(500),
        queue_timeout: Duration::from_millis(250),
        slow_request: Duration::from_millis(100),
        buffer_limit: 64 << 20,
        secured: Secured::default(),
        discovery: discovery::Options {
            own: localhost_own(),
            variables: config.discovery.variables.clone(),
            ..discovery::Options::default()
        },
        ready_timeout: Duration::from_secs(10),
        drain_timeout: Duration::from_secs(5),
        drain_timeout_on_exit: Duration::from_secs(25),
        max_connections: 4096,
        hot_keys: true,
        log_keys: false,
        log_filter: "info".to_owned(),
        log_format: LogFormat::Text,
        given: config.given.clone(),
        warnings: Vec::new(),
    };
    assert_eq!(config, expected);
    assert_eq!(parsed("--nodes a", &[]), expected, "no command is serve");
    let from_variable = parsed("", &[("MEMCACHED_NODES", "a")]);
    assert!(from_variable.discovery.variables.in_use.contains("MEMCACHED_NODES"));
    let discovery = expected.discovery.clone();
    assert_eq!(Config { given: expected.given.clone(), discovery, ..from_variable }, expected);
    assert_eq!(parsed("dev", &[]).command, Command::Dev { nodes: 3, node_memory: 64 << 20 });
}

/// Flag, variable, a value, another one, and how each is seen in the configuration.
#[test]
fn every_option_is_a_flag_and_a_variable_and_the_flag_wins() {
    type See = fn(&Config) -> String;
    let rows: [(&str, &str, &str, &str, See); 25] = [
        ("nodes", "MEMCACHED_NODES", "a:11211=1", "b:11211=1", |c| names(c).join(",")),
        ("node-port", "MEMCACHED_PORT", "1", "2", |c| names(c)[0].rsplit_once(':').unwrap().1.replace("=1", "")),
        ("listen", "SLIPRING_LISTEN", "[::1]:5", "1.2.3.4:6", |c| c.listen[0].to_string()),
        ("listen", "SLIPRING_LISTEN", "unix:/run/a.sock", "localhost", |c| c.listen[0].to_string()),
        ("instance", "SLIPRING_INSTANCE", "shop/app-1", "b", |c| c.instance.clone().unwrap()),
        ("unix-mode", "SLIPRING_UNIX_MODE", "0660", "0777", |c| format!("{:04o}", c.unix_mode)),
        ("admin-listen", "SLIPRING_ADMIN_LISTEN", "127.0.0.1:1", "[::]:2", |c| c.admin_listen[0].to_string()),
        ("workers", "SLIPRING_WORKERS", "3", "64", |c| c.workers.to_string()),
        ("connections-per-node", "SLIPRING_CONNECTIONS_PER_NODE", "2", "16", |c| c.connections_per_node.to_string()),
        ("connect-timeout", "SLIPRING_CONNECT_TIMEOUT", "1ms", "5s", |c| format!("{:?}", c.connect_timeout)),
        ("drain-timeout-on-exit", "SLIPRING_DRAIN_TIMEOUT_ON_EXIT", "1s", "3600s", |c| {
            format!("{:?}", c.drain_timeout_on_exit)
        }),
        ("max-connections", "SLIPRING_MAX_CONNECTIONS", "1", "1000000", |c| c.max_connections.to_string()),
        ("max-value", "SLIPRING_MAX_VALUE", "1024", "1073741824", |c| c.max_value.to_string()),
        ("merge-gets", "SLIPRING_MERGE_GETS", "off", "on", |c| if c.merge_gets { "on" } else { "off" }.to_owned()),
        ("on-node-down", "SLIPRING_ON_NODE_DOWN", "error", "miss", |c| format!("{:?}", c.on_node_down).to_lowercase()),
        ("nodes-before", "MEMCACHED_NODES_BEFORE", "x:1", "ending:y:2", |c| match &c.discovery.before {
            discovery::BeforeSource::List(declared) => declared.to_string().replace(" by ring", ""),
            other => format!("{other:?}"),
        }),
        ("flush-before", "SLIPRING_FLUSH_BEFORE", "true", "false", |c| c.flush_before.to_string()),
        ("deny-flush-all", "SLIPRING_DENY_FLUSH_ALL", "true", "false", |c| c.deny_flush_all.to_string()),
        ("answer-discovery", "SLIPRING_ANSWER_DISCOVERY", "off", "10.0.0.5:1", |c| c.answer_discovery.to_string()),
        ("answer-discovery", "SLIPRING_ANSWER_DISCOVERY", "on", "[fd00::1]:2", |c| c.answer_discovery.to_string()),
        ("hot-keys", "SLIPRING_HOT_KEYS", "off", "on", |c| if c.hot_keys { "on" } else { "off" }.to_owned()),
        ("log-keys", "SLIPRING_LOG_KEYS", "true", "false", |c| c.log_keys.to_string()),
        ("log-format", "SLIPRING_LOG_FORMAT", "json", "text", |c| format!("{:?}", c.log_format).to_lowercase()),
        ("log-level", "SLIPRING_LOG_LEVEL", "debug", "off", |c| c.log_filter.clone()),
        ("log-level", "SLIPRING_LOG_LEVEL", "trace", "error", |c| c.log_filter.clone()),
    ];
    for (flag, variable, one, other, see) in rows {
        let nodes = if flag == "nodes" { "" } else { "--nodes x" };
        assert_eq!(see(&parsed(&format!("{nodes} --{flag}={one}"), &[])), one, "{flag}");
        assert_eq!(see(&parsed(nodes, &[(variable, one)])), one, "{variable}");
        assert_eq!(see(&parsed(&format!("{nodes} --{flag}={one}"), &[(variable, other)])), one, "{flag}");
        assert_eq!(see(&parsed(&format!("{nodes} --{flag}={other}"), &[(variable, one)])), other, "{flag}");
        assert_eq!(
            parsed(&format!("{nodes} --{flag}={one}"), &[(variable, "")]),
            parsed(&format!("{nodes} --{flag}={one}"), &[]),
        );
    }
    let dev = parsed("dev --node-memory 1m", &[("SLIPRING_DEV_NODES", "20"), ("SLIPRING_DEV_NODE_MEMORY", "2g")]);
    assert_eq!(dev.command, Command::Dev { nodes: 20, node_memory: 1 << 20 });
}

#[test]
fn what_was_given_is_shown_with_where_it_came_from() {
    let variables = [("MEMCACHED_PORT", "11311"), ("SLIPRING_WORKERS", "3"), ("SLIPRING_LOG_LEVEL", "")];
    let config = parsed("--nodes a,b=2 --workers 4 --deny-flush-all", &variables);
    let shown = |option: &str| {
        let given = config.given.iter().find(|given| given.option == option).unwrap();
        (given.value.as_deref(), &*given.from)
    };
    assert_eq!(shown("nodes"), (Some("a,b=2"), "flag"));
    assert_eq!(shown("node-port"), (Some("11311"), "MEMCACHED_PORT"));
    assert_eq!(shown("workers"), (Some("4"), "flag"));
    assert_eq!(shown("deny-flush-all"), (Some("true"), "flag"));
    assert_eq!(shown("log-level"), (Some("info"), "default"));
    assert_eq!(shown("discovery"), (None, "default"));
    // All of these may be seen by whoever reaches the admin port. Is that so of a new one?
    let all: Vec<&str> = config.given.iter().map(|given| &*given.option).collect();
    assert_eq!(
        all.join(" "),
        "nodes nodes-file discovery discovery-port dns discovery-interval removal-hold state-dir ready-timeout \
         drain-timeout node-port node-order nodes-before nodes-before-file placement-before flush-before node-tls node-tls-ca node-tls-cert node-tls-key node-tls-name node-tls-insecure \
         node-auth-file placement node-name-format listen instance unix-mode admin-listen workers \
         connections-per-node connect-timeout request-timeout queue-timeout buffer-limit max-connections drain-timeout-on-exit max-value bulk-above \
         merge-gets on-node-down answer-discovery deny-flush-all slow-request hot-keys log-keys log-level log-format"
    );
    let json: serde_json::Value = serde_json::from_str(&config.to_json()).unwrap();
    assert_eq!(json["workers"], 4);
    assert_eq!(json["options"][0], serde_json::json!({ "option": "nodes", "value": "a,b=2", "from": "flag" }));
    assert_eq!(json["buffer_limit_bytes"], 64 << 20, "what auto came to");
}

#[test]
fn a_flag_silences_a_variable_that_would_be_wrong() {
    let env: Env<'_> = &[("MEMCACHED_NODES", "a,a"), ("SLIPRING_LISTEN", "nonsense"), ("MEMCACHED_PORT", "tcp://x")];
    let config = parsed("--nodes b --listen 127.0.0.1:1 --node-port 5", env);
    assert_eq!(names(&config), ["b:5=1"]);
    assert_eq!(config.warnings, [""; 0]);
    assert_eq!(parsed("dev", &[("MEMCACHED_NODES", "a,a"), ("MEMCACHED_PORT", "x")]).warnings, [""; 0]);
}

#[test]
fn empty_and_blank_variables_are_not_set_and_the_others_are_trimmed() {
    let blank: Env<'_> =
        &[("SLIPRING_LISTEN", ""), ("MEMCACHED_PORT", " \n"), ("RUST_LOG", ""), ("SLIPRING_WORKERS", "")];
    assert_eq!(parsed("--nodes a", blank), parsed("--nodes a", &[]));
    assert_eq!(parsed("--nodes a", &[("SLIPRING_WORKERS", " 4\n")]).workers, 4);
    assert!(refused("", &[("MEMCACHED_NODES", "  ")]).starts_with("no nodes"));
}

#[test]
fn the_port_that_kubernetes_sets_is_ignored_with_one_warning() {
    for value in ["tcp://10.0.0.9:11211", "udp://10.0.0.9:11211"] {
        let config = parsed("--nodes a", &[("MEMCACHED_PORT", value)]);
        assert_eq!(names(&config), ["a:11211=1"]);
        assert_eq!(config.warnings.len(), 1);
        assert!(config.warnings[0].starts_with(&format!("MEMCACHED_PORT={value} ignored")), "{:?}", config.warnings);
    }
    for value in ["0", "65536", "http", "10.0.0.9:11211", "-1"] {
        let line = refused("--nodes a", &[("MEMCACHED_PORT", value)]);
        assert!(line.starts_with(&format!("invalid value '{value}' for MEMCACHED_PORT: ")), "{line}");
    }
    assert!(refused("--nodes a --node-port=tcp://10.0.0.9:1", &[]).contains("'tcp://10.0.0.9:1' for '--node-port"));
}

#[test]
fn clients_and_the_admin_endpoint_have_addresses_of_their_own() {
    for (line, expected) in [
        ("--listen 127.0.0.1:5 --admin-listen 127.0.0.1:5", "127.0.0.1:5 takes the port of 127.0.0.1:5"),
        ("--listen 127.0.0.1:5 --admin-listen 127.0.0.1:6,0.0.0.0:5", "0.0.0.0:5 takes the port of 127.0.0.1:5"),
        ("--listen 0.0.0.0:5 --admin-listen 10.0.0.1:5", "10.0.0.1:5 takes the port of 0.0.0.0:5"),
        ("--listen [::1]:9150", "[::]:9150 takes the port of [::1]:9150"),
        ("--admin-listen 127.0.0.1:11211", "127.0.0.1:11211 takes the port of 127.0.0.1:11211"),
    ] {
        for command in ["serve --nodes a", "dev"] {
            let text = refused(&format!("{command} {line}"), &[]);
            assert_eq!(text, format!("--admin-listen: {expected}, where clients connect (--listen)"));
        }
    }
    let text = refused("--nodes a --admin-listen [::1]:7", &[("SLIPRING_LISTEN", "[::1]:7")]);
    assert!(text.ends_with("where clients connect (SLIPRING_LISTEN)"), "{text}");
    for line in [
        "--listen 127.0.0.1:5 --admin-listen [::1]:5",
        "--listen 127.0.0.1:5 --admin-listen 127.0.0.2:5",
        "--listen 127.0.0.1:0 --admin-listen 127.0.0.1:0",
        "--listen unix:/a",
        "--listen 127.0.0.1:9150 --admin-listen off",
    ] {
        parsed(&format!("--nodes a {line}"), &[]);
    }
}

#[test]
fn listening() {
    let both = addresses(&["127.0.0.1:1", "[::1]:1"]);
    assert_eq!(parsed("--nodes a --listen 127.0.0.1:1 --listen [::1]:1", &[]).listen, both);
    assert_eq!(parsed("--nodes a --listen 127.0.0.1:1,[::1]:1", &[]).listen, both);
    assert_eq!(parsed("--nodes a", &[("SLIPRING_LISTEN", "127.0.0.1:1, [::1]:1")]).listen, both);
    let localhost = parsed("--nodes a --listen localhost", &[("SLIPRING_LISTEN", "1.1.1.1:1")]).listen;
    assert_eq!(localhost, [ListenAddress::Localhost(PORT)]);
    let other = parsed("--nodes a", &[("SLIPRING_LISTEN", "localhost:11311")]).listen;
    assert_eq!((other[0].to_string().as_str(), other[0].addresses().len()), ("localhost:11311", 2));
    let any = "--nodes a --listen 127.0.0.1:0,127.0.0.1:0";
    assert_eq!(parsed(any, &[]).listen, addresses(&["127.0.0.1:0", "127.0.0.1:0"]));
    assert_eq!(parsed("--nodes a --admin-listen off", &[]).admin_listen, []);
    let line = refused("--nodes a --admin-listen off,127.0.0.1:9150", &[]);
    assert_eq!(line, "--admin-listen: off goes with no address");
    let line = refused("--nodes a", &[("SLIPRING_ADMIN_LISTEN", "127.0.0.1:1,127.0.0.1:1")]);
    assert_eq!(line, "SLIPRING_ADMIN_LISTEN: 127.0.0.1:1 is listed twice");

    assert_eq!(refused("--nodes a --listen 1.1.1.1:1,1.1.1.1:1", &[]), "--listen: 1.1.1.1:1 is listed twice");
    assert_eq!(refused("--nodes a --listen unix:/a,unix:/a", &[]), "--listen: unix:/a is listed twice");
    let with_unix = parsed("--nodes a --listen localhost --listen unix:/a", &[]).listen;
    assert_eq!(with_unix, [ListenAddress::Localhost(PORT), ListenAddress::Unix("/a".into())]);
    let mixed = refused("--nodes a", &[("SLIPRING_LISTEN", "localhost,1.1.1.1:1")]);
    assert_eq!(mixed, "SLIPRING_LISTEN: localhost goes with no other IP:port");
    let twice = refused("--nodes a --listen localhost,localhost:11311", &[]);
    assert_eq!(twice, "--listen: localhost goes with no other IP:port");
}

#[test]
fn workers_follow_the_cpu_limit_and_not_the_number_of_cpus() {
    let workers = |line: &str, limit| parsed_with(line, &[], limit).unwrap().workers;
    for (limit, expected) in [(None, 1), (Some(0.5), 1), (Some(1.9), 1), (Some(2.0), 2), (Some(8.0), 2)] {
        assert_eq!(workers("--nodes a", limit), expected, "{limit:?}");
        assert_eq!(workers("--nodes a --workers auto", limit), expected);
        assert_eq!(workers("--nodes a --workers 1", limit), 1);
    }
}

#[test]
fn switches() {
    for (text, value) in [("true", true), ("1", true), ("ON", true), ("false", false), ("0", false), ("off", false)] {
        assert_eq!(parsed("--nodes a", &[("SLIPRING_DENY_FLUSH_ALL", text)]).deny_flush_all, value);
        assert_eq!(parsed("--nodes a", &[("SLIPRING_MERGE_GETS", text)]).merge_gets, value);
    }
    assert!(parsed("--nodes a --deny-flush-all", &[("SLIPRING_DENY_FLUSH_ALL", "false")]).deny_flush_all);
    assert!(parsed("--deny-flush-all --nodes a", &[]).deny_flush_all, "takes no separate value");
}

#[test]
fn rust_log_wins_over_the_level() {
    let config = parsed("--nodes a --log-level error", &[("RUST_LOG", "slipring=debug,warn")]);
    assert_eq!(config.log_filter, "slipring=debug,warn");
    assert!(refused("--nodes a", &[("RUST_LOG", "slipring=loud")]).starts_with("RUST_LOG=slipring=loud: "));
}

#[test]
fn what_is_wrong_is_named_in_one_line() {
    for (option, variable, value) in [
        ("listen", "SLIPRING_LISTEN", "127.0.0.1"),
        ("listen", "SLIPRING_LISTEN", "example.com:11211"),
        ("listen", "SLIPRING_LISTEN", "unix:"),
        ("listen", "SLIPRING_LISTEN", "unix:relative"),
        ("listen", "SLIPRING_LISTEN", "unix:/a/directory/"),
        ("instance", "SLIPRING_INSTANCE", &"x".repeat(513)),
        ("unix-mode", "SLIPRING_UNIX_MODE", "1777"),
        ("unix-mode", "SLIPRING_UNIX_MODE", "0800"),
        ("unix-mode", "SLIPRING_UNIX_MODE", "+7"),
        ("admin-listen", "SLIPRING_ADMIN_LISTEN", "9150"),
        ("workers", "SLIPRING_WORKERS", "0"),
        ("workers", "SLIPRING_WORKERS", "65"),
        ("connections-per-node", "SLIPRING_CONNECTIONS_PER_NODE", "0"),
        ("connections-per-node", "SLIPRING_CONNECTIONS_PER_NODE", "17"),
        ("connect-timeout", "SLIPRING_CONNECT_TIMEOUT", "0s"),
        ("connect-timeout", "SLIPRING_CONNECT_TIMEOUT", "250"),
        ("drain-timeout-on-exit", "SLIPRING_DRAIN_TIMEOUT_ON_EXIT", "61m"),
        ("max-connections", "SLIPRING_MAX_CONNECTIONS", "0"),
        ("max-connections", "SLIPRING_MAX_CONNECTIONS", "1000001"),
        ("max-value", "SLIPRING_MAX_VALUE", "1023"),
        ("max-value", "SLIPRING_MAX_VALUE", "2GiB"),
        ("max-value", "SLIPRING_MAX_VALUE", "128MB"),
        ("merge-gets", "SLIPRING_MERGE_GETS", "maybe"),
        ("on-node-down", "SLIPRING_ON_NODE_DOWN", "panic"),
        ("answer-discovery", "SLIPRING_ANSWER_DISCOVERY", "10.0.0.5"),
        ("answer-discovery", "SLIPRING_ANSWER_DISCOVERY", "::1"),
        ("answer-discovery", "SLIPRING_ANSWER_DISCOVERY", "a:0"),
        ("answer-discovery", "SLIPRING_ANSWER_DISCOVERY", "a b:1"),
        ("answer-discovery", "SLIPRING_ANSWER_DISCOVERY", "a:1=2"),
        ("deny-flush-all", "SLIPRING_DENY_FLUSH_ALL", "yes please"),
        ("log-level", "SLIPRING_LOG_LEVEL", "loud"),
        ("log-format", "SLIPRING_LOG_FORMAT", "xml"),
        ("placement", "SLIPRING_PLACEMENT", "rung"),
    ] {
        let line = refused("--nodes a", &[(variable, value)]);
        assert!(line.starts_with(&format!("invalid value '{value}' for {variable}")), "{line}");
        if !value.contains(' ') {
            let line = refused(&format!("--nodes a --{option}={value}"), &[]);
            assert!(line.starts_with(&format!("invalid value '{value}' for '--{option}")), "{line}");
        }
    }
    let path = "x".repeat(107);
    assert!(refused(&format!("--nodes a --listen unix:/{path}"), &[]).contains("at most 107 bytes"));
    let nodes = refused("dev --nodes 21", &[]);
    assert!(nodes.starts_with("invalid value '21' for '--nodes"), "{nodes}");
    assert!(refused("dev", &[("SLIPRING_DEV_NODES", "0")]).contains("'0' for SLIPRING_DEV_NODES"));
    assert!(refused("dev --node-memory 1k", &[]).contains("'1k'"));
    // A hostile value neither breaks the line nor reaches the terminal as control characters.
    let line = refused("--nodes a", &[("SLIPRING_LISTEN", "a\u{7}\n\u{1b}[2Jb")]);
    assert!(line.contains("for SLIPRING_LISTEN") && !line.contains(char::is_control), "{line:?}");
    let line = refused("--nodes a", &[("RUST_LOG", "x=\u{1b}[2J\ny")]);
    assert!(line.starts_with("RUST_LOG=x=?[2J y: "), "{line:?}");
}

#[test]
fn what_clap_refuses_is_one_line_too() {
    for (line, token) in [
        ("--nodez a", "'--nodez'"),
        ("serv", "\"serv\""),
        ("serve extra --nodes a", "'extra'"),
        ("--nodes a -- more", "'more'"),
        ("--nodes a --workers 1 --workers 2", "'--workers <N>'"),
        ("--nodes", "'--nodes <LIST>'"),
        ("serve --node-memory 1g", "'--node-memory'"),
        ("dev --node-port 1", "'--node-port'"),
    ] {
        let text = refused(line, &[]);
        assert!(text.contains(token), "{line}: {text}");
        assert!(!text.contains("Usage"), "{text}");
    }
    // A word that was meant for the option before it.
    let switch =
        "write --node-tls, --node-tls=true or --node-tls=false (on, off, 1 and 0 do, too), with \"=\" before the value";
    assert_eq!(refused("--nodes a --node-tls yes", &[]), format!("--node-tls yes: {switch}"));
    assert_eq!(refused("check --nodes a --node-tls true", &[]), format!("--node-tls true: {switch}"));
    let blank = "is behind a blank, where the list has ended: write it without blanks, or in quotes";
    assert_eq!(refused("serve --nodes a, b --workers 2", &[]), format!("--nodes: \"b\" {blank}"));
    assert_eq!(refused("--nodes=a,b ,c", &[]), format!("--nodes: \",c\" {blank}"));
    assert_eq!(refused("check --nodes a b", &[]), format!("--nodes: \"b\" {blank}"));
    assert_eq!(refused("plan --to=a b", &[]), format!("--to: \"b\" {blank}"));
    assert_eq!(refused("--nodes a check", &[]), "check is a command, which comes first: slipring check [OPTIONS]");
    for line in ["-p 11211", "serve --nodes a -v", "check --nodes a --workers 2 extra"] {
        assert!(refused(line, &[]).ends_with("; the options are listed by: slipring COMMAND --help"), "{line}");
    }
    assert!(refused("--nodez a", &[]).ends_with("tip: a similar argument exists: '--nodes'"));
}

#[test]
fn help_and_version_leave_with_success_whatever_the_environment_says() {
    let env: Env<'_> = &[("SLIPRING_LISTEN", "nonsense")];
    for (line, part) in [
        ("--help", "slipring serve --help"),
        ("-h", "dev"),
        ("help dev", "--node-memory"),
        ("serve --help", "[env: SLIPRING_LISTEN]"),
        ("--nodes a --help", "[env: MEMCACHED_NODES]"),
        ("dev -h", "[default: 64MiB]"),
        ("--version", concat!("slipring ", env!("CARGO_PKG_VERSION"))),
        ("-V", "slipring"),
        ("serve --version", concat!("slipring ", env!("CARGO_PKG_VERSION"))),
        ("serve --help", "Failures:\n"),
    ] {
        let exit = parsed_with(line, env, None).unwrap_err();
        assert_eq!((exit.code, exit.stream), (0, Stream::Stdout), "{line}: {}", exit.text);
        assert!(exit.text.contains(part), "{line}: {}", exit.text);
        assert!(!exit.text.contains("nonsense"));
    }
}

#[test]
fn the_help_of_a_command_shows_only_what_it_uses() {
    for command in ["check", "locate", "detect"] {
        let help = parsed_with(&format!("{command} --help"), &[], None).unwrap_err().text;
        assert!(help.contains("--nodes-file") && help.contains("--log-level"), "{help}");
        assert!(!help.contains("--max-connections") && !help.contains("--hot-keys"), "{help}");
        // Given to it all the same, as with a sidecar's own arguments, it is accepted.
        let key = if command == "locate" { " key" } else { "" };
        parsed(&format!("{command} --nodes a --max-connections 5{key}"), &[]);
    }
}

#[test]
fn numbers_and_words_that_are_wrong_get_plain_words() {
    let port = "expected a whole number from 1 to 65535";
    let port_text = refused("--nodes a", &[("MEMCACHED_PORT", "abc")]);
    assert_eq!(port_text, format!("invalid value 'abc' for MEMCACHED_PORT: {port}"));
    assert!(refused("dev --nodes 10.0.0.2", &[]).ends_with(": expected a whole number from 1 to 20"));
    assert!(refused("reload --pid abc", &[]).ends_with(": expected a whole number from 1 to 2147483647"));
    let listed = "(they are listed by: slipring --help)";
    assert_eq!(refused("frobnicate", &[]), format!("there is no command \"frobnicate\" {listed}"));
    assert_eq!(refused("relaod", &[]), format!("there is no command \"relaod\", perhaps reload is meant {listed}"));
    assert_eq!(
        refused("10.0.0.2:11211", &[]),
        "there is no command \"10.0.0.2:11211\"; nodes are named by --nodes LIST"
    );
    assert!(refused("serve cache.example:11211", &[]).ends_with("; nodes are named by --nodes LIST"));
    assert_eq!(
        refused("serv --nodes a", &[]),
        format!("there is no command \"serv\", perhaps serve is meant {listed}")
    );
    for line in ["--nodes a --log-level WARN", "--nodes a --log-format Json --on-node-down ERROR"] {
        parsed(line, &[]);
    }
}

#[test]
fn a_filter_for_other_programs_alone_is_ignored_with_a_word() {
    for filter in ["nonsense", "my_app=debug", "hyper=off"] {
        let config = parsed("--nodes a --log-level error", &[("RUST_LOG", filter)]);
        assert_eq!(config.log_filter, "error");
        let expected = format!("RUST_LOG={filter} ignored: it has no level for slipring; --log-level error holds");
        assert_eq!(config.warnings, [expected]);
    }
    // Without empty ones, which would stand for `error`.
    for (filter, rest) in [(",,", ""), ("hyper=off,, ", "hyper=off")] {
        let config = parsed("--nodes a", &[("RUST_LOG", filter)]);
        assert_eq!(config.log_filter, "info");
        assert!(config.warnings.concat().starts_with(&format!("RUST_LOG={rest} ignored: ")), "{:?}", config.warnings);
    }
    for filter in ["off", "slipring=off", "slipring::proxy=debug", "warn", "info,hyper=off"] {
        let config = parsed("--nodes a", &[("RUST_LOG", filter)]);
        assert_eq!((config.log_filter.as_str(), config.warnings.len()), (filter, 0));
    }
}

#[test]
fn the_table_has_every_option_once() {
    let table = option_table();
    let rows: Vec<&str> = table.lines().skip(2).collect();
    let names: std::collections::HashSet<_> = rows.iter().filter_map(|row| row.split(" | ").nth(1)).collect();
    assert_eq!(names.len(), rows.len(), "{table}");
    assert!(rows.iter().all(|row| row.replace("\\|", "").matches('|').count() == 5), "{table}");
    let port = "| `--node-port` | `MEMCACHED_PORT` | `11211` | Port of nodes named without one |";
    assert!(rows.contains(&port), "{table}");
    assert!(table.contains("| `--nodes` | `SLIPRING_DEV_NODES` | `3` | `slipring dev`: Number"), "{table}");
}

#[test]
fn an_empty_argument_list_is_serve() {
    let lookup = |name: &str| (name == "MEMCACHED_NODES").then(|| "a".to_owned());
    assert_eq!(names(&parse(Vec::new(), &lookup).unwrap()), ["a:11211=1"]);
}

#[test]
fn the_declaration_is_sound() {
    Cli::command().debug_assert();
    cli::without_environment(Cli::command()).debug_assert();
}

#[test]
fn buffers_follow_the_memory_limit() {
    let limit = |line: &str, memory| {
        let args = std::iter::once("slipring").chain(line.split_whitespace()).map(OsString::from);
        parse_within(args, &|_| None, Limits { cpus: None, memory }).unwrap().buffer_limit
    };
    assert_eq!(limit("--nodes a", Some(100 << 20)), 40 << 20);
    assert_eq!(limit("--nodes a", Some(10 << 20)), 8 << 20, "never less than it can work with");
    assert_eq!(limit("--nodes a", None), 64 << 20);
    assert_eq!(limit("--nodes a --buffer-limit 16m", Some(100 << 20)), 16 << 20);
    assert!(refused("--nodes a --buffer-limit 1m", &[]).contains("8MiB to 64GiB"));
}

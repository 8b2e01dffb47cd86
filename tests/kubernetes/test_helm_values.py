"""The values of deploy/helm: described, closed to what is misspelt, and as the program has them."""

import json
import os
import re
import shlex
import subprocess

import pytest
import yaml

from chart import CHART, Failed, environment, helm, settings, template
from manifests import DEPLOY, slipring_containers
from processes import binary

REFRESH = "UPDATE_README" in os.environ


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"inject.enabeld": True}, "'/inject'.*'enabeld' not allowed"),
        ({"injekt": {"enabled": True}}, "'injekt' not allowed"),
        ({"inject.enabled": "yes"}, "'/inject/enabled': got string, want boolean"),
        ({"inject.apiVersion": "v2"}, "'/inject/apiVersion': value must be one of 'v1', 'v1beta1'"),
        ({"inject.env": {"SLIPRING_ON_NODEDOWN": "miss"}}, "'/inject/env'.*'SLIPRING_ON_NODEDOWN' not allowed"),
        ({"inject.env": {"MEMCACHED_NODES": "10.0.0.2"}}, "'/inject/env'.*'MEMCACHED_NODES' not allowed"),
        ({"inject.env": {"SLIPRING_WORKERS": 1.5}}, "'/inject/env/SLIPRING_WORKERS': got number"),
        ({"inject.resources.memory": "1Gi"}, "'/inject/resources'.*'memory' not allowed"),
        ({"inject.discovery": "10.0.0.2,10.0.0.3"}, "'/inject/discovery'"),
        ({"inject.dns": "srv:name:11211"}, "'/inject/dns'"),
        ({"inject.placement": "dalli,"}, "'/inject/placement'"),
        ({"inject.configMap": "A_b"}, "'/inject/configMap'"),
        ({"inject.tls": "true"}, "'/inject/tls': got string, want boolean"),
        ({"inject.tls": True, "inject.tlsName": "cache.example:11211"}, "'/inject/tlsName'"),
        ({"inject.authSecret": "user:password"}, "'/inject/authSecret'"),
        ({"inject.env": {"SLIPRING_NODE_TLS_CA": "/ca.crt"}}, "'/inject/env'.*'SLIPRING_NODE_TLS_CA' not allowed"),
        ({"nodeLocal.tls": True, "nodeLocal.tlsCaSecret": "A_b"}, "'/nodeLocal/tlsCaSecret'"),
        ({"nodeLocal.access": "hostport"}, "'/nodeLocal/access': .*'service', 'host-port', 'socket'"),
        ({"nodeLocal.port": 0}, "'/nodeLocal/port': minimum: got 0, want 1"),
        ({"nodeLocal.nodes": ["10.0.0.2"]}, "'/nodeLocal/nodes': got array, want string"),
        ({"nodeLocal.imagePullSecrets": ["registry"]}, "'/nodeLocal/imagePullSecrets/0': got string, want object"),
        ({"monitoring.alerts.lables": {}}, "'/monitoring/alerts'.*'lables' not allowed"),
        ({"image.tag": 1}, "'/image/tag': got number, want string"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("command", [["template", "slipring"], ["lint"]], ids=lambda command: command[0])
def test_wrong_values_are_refused(command, values, message):
    with pytest.raises(Failed, match=message):
        helm(*command, CHART, *settings(values))


def leaves(values, schema, path=""):
    """The names of values, down to where the schema says no more what they are."""
    for name, value in values.items():
        below = schema["properties"][name]
        if "properties" in below:
            yield from leaves(value, below, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def described():
    """What values.yaml says of each value: the comment before it."""
    found, path, comment = {}, [], None
    for line in (CHART / "values.yaml").read_text().splitlines():
        if match := re.match(r"( *)# (.*)", line):
            comment = match[2]
        elif match := re.match(r"( *)(\w+):", line):
            path = [*path[: len(match[1]) // 2], match[2]]
            if comment:
                found[".".join(path)] = comment
            comment = None
        else:
            comment = None
    return found


def shown(value):
    if value in ("", {}, []):
        return "–"
    # As it may be written in a values file.
    if not isinstance(value, str):
        value = yaml.safe_dump(value, default_flow_style=True, width=999).strip().removesuffix("\n...")
    return f"`{value}`"


def test_the_table_of_values():
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    texts = described()
    rows = [f"| `{name}` | {shown(value)} | {texts.pop(name)} |\n" for name, value in leaves(values, schema)]
    assert texts == {}, "each comment is for one value"
    path = CHART / "README.md"
    text = path.read_text()
    before, _, rest = text.partition("| value | default | meaning |\n|---|---|---|\n")
    after = rest[len(re.match(r"(\|.*\n)*", rest)[0]) :]
    made = f"{before}| value | default | meaning |\n|---|---|---|\n{''.join(rows)}{after}"
    if REFRESH:
        path.write_text(made)
    assert made == path.read_text(), "see its end"


@pytest.mark.parametrize("text", ["helm/README.md", "README.md"])
def test_what_is_written_to_be_typed(text, tmp_path):
    """Rendered, in place of installed."""
    blocks = re.findall(r"```(sh|yaml)\n(.*?)```", (DEPLOY / text).read_text(), re.S)
    typed = "".join(block for kind, block in blocks if kind == "sh").replace("\\\n", "")
    commands = [shlex.split(line, comments=True) for line in typed.splitlines() if line.startswith("helm ")]
    assert len(commands) == 2
    for command in commands:
        kept = [part for part in command[2:] if part not in ("--create-namespace", "--reuse-values")]
        assert command[1] in ("install", "upgrade") and kept[:2] == ["slipring", "deploy/helm"]
        assert helm("template", kept[0], CHART, *kept[2:])
    if text == "helm/README.md":
        (values,) = [block for kind, block in blocks if kind == "yaml"]
        (tmp_path / "values.yaml").write_text(values)
        found = template({}, more=["--values", tmp_path / "values.yaml"])
        sidecars = slipring_containers(found)
        assert {environment(each).get("SLIPRING_ON_NODE_DOWN") for each in sidecars} == {"error", None}
        assert "priorityClassName: system-node-critical" in yaml.safe_dump_all(found)


def every_object(schema):
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            yield schema
        for value in schema.values():
            yield from every_object(value)


def test_the_schema_is_closed():
    """A value that is not declared is refused, wherever it stands; but for what is another's: labels, patches."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    open_ones = [each for each in every_object(schema) if each.get("additionalProperties") is not False]
    assert [each for each in open_ones if "properties" in each] == []
    assert all(each.get("additionalProperties", True) for each in open_ones) and len(open_ones) == 5
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    declared = {"global": {}} | values
    assert declared.keys() == schema["properties"].keys()
    for name in values:
        assert values[name].keys() == schema["properties"][name]["properties"].keys(), name


# Those that have a value of their own.
OWN = {"MEMCACHED_NODES", "MEMCACHED_NODES_FILE", "MEMCACHED_PORT"}
OWN |= {"MEMCACHED_DISCOVERY_HOST", "SLIPRING_DNS", "SLIPRING_PLACEMENT"}
OWN |= {f"SLIPRING_NODE_{name}" for name in ["TLS", "TLS_CA", "TLS_CERT", "TLS_KEY", "TLS_NAME", "AUTH_FILE"]}


def test_env_takes_the_variables_of_the_program():
    said = subprocess.run([binary(), "serve", "--help"], check=True, capture_output=True, text=True).stdout
    wanted = [name for name in re.findall(r"\[env: (\w+)\]", said) if name not in OWN] + ["RUST_LOG"]
    path = CHART / "values.schema.json"
    text = path.read_text()
    lines = ",\n".join(f'        "{name}": {{"$ref": "#/$defs/option"}}' for name in wanted)
    made = re.sub(r'( {8}"\w+": {"\$ref": "#/\$defs/option"},?\n)+', lambda _: lines + "\n", text)
    if REFRESH:
        path.write_text(made)
    assert made == path.read_text(), "see the end of deploy/helm/README.md"

{{/*
Merges `with` into `onto`, which it changes, as kustomize merges a strategic merge patch: maps by their keys, lists of
maps by the field that names their items, with `$patch: delete` and `replace`; a null takes away. An entry of `env` is
replaced whole: its value, and what refers to one, exclude each other. The result is empty.
*/}}
{{- define "slipring.patch" -}}
{{- $onto := .onto -}}
{{- range $key, $value := .with -}}
  {{- $old := get $onto $key -}}
  {{- if kindIs "invalid" $value -}}
    {{- $_ := unset $onto $key -}}
  {{- else if and (kindIs "map" $value) (eq (get $value "$patch") "replace") -}}
    {{- $_ := set $onto $key (omit $value "$patch") -}}
  {{- else if and (kindIs "map" $value) (kindIs "map" $old) -}}
    {{- include "slipring.patch" (dict "onto" $old "with" $value) -}}
  {{- else if and (kindIs "slice" $value) (kindIs "slice" $old) $value (kindIs "map" (first $value)) -}}
    {{- $name := get (dict "ports" "containerPort" "volumeMounts" "mountPath") $key | default "name" -}}
    {{- $merged := list -}}
    {{- range $item := $old -}}
      {{- $item := $item -}}
      {{- range $patch := $value -}}
        {{- if eq (toString (get $patch $name)) (toString (get $item $name)) -}}
          {{- if eq (get $patch "$patch") "delete" -}}
            {{- $item = dict -}}
          {{- else if eq $key "env" -}}
            {{- $item = $patch -}}
          {{- else -}}
            {{- include "slipring.patch" (dict "onto" $item "with" $patch) -}}
          {{- end -}}
        {{- end -}}
      {{- end -}}
      {{- if $item -}}
        {{- $merged = append $merged $item -}}
      {{- end -}}
    {{- end -}}
    {{- range $patch := $value -}}
      {{- $known := false -}}
      {{- range $item := $old -}}
        {{- $known = or $known (eq (toString (get $patch $name)) (toString (get $item $name))) -}}
      {{- end -}}
      {{- if not $known -}}
        {{- $merged = append $merged $patch -}}
      {{- end -}}
    {{- end -}}
    {{- $_ := set $onto $key $merged -}}
  {{- else -}}
    {{- $_ := set $onto $key $value -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{/*
What the values of a part say of its slipring, as a patch of a container and of a pod: its image, its resources, where
its nodes come from, its variables.
*/}}
{{- define "slipring.settings" -}}
{{- $part := .part -}}
{{- $sources := list -}}
{{- range $name := list "nodes" "discovery" "dns" -}}
  {{- if get $part $name -}}
    {{- $sources = append $sources (printf "%s.%s" $.name $name) -}}
  {{- end -}}
{{- end -}}
{{- if gt (len $sources) 1 -}}
  {{- fail (printf "%s: only one may say who the nodes are" (join " and " $sources)) -}}
{{- end -}}
{{- $own := or $part.discovery $part.dns -}}
{{- $env := list -}}
{{- if $own -}}
  {{- $env = append $env (dict "name" "MEMCACHED_NODES_FILE" "$patch" "delete") -}}
  {{- $env = append $env (dict "name" "MEMCACHED_NODES_BEFORE_FILE" "value" "/etc/slipring") -}}
{{- end -}}
{{- range $name, $value := dict "MEMCACHED_DISCOVERY_HOST" $part.discovery "SLIPRING_DNS" $part.dns -}}
  {{- if $value -}}
    {{- $env = append $env (dict "name" $name "value" $value) -}}
  {{- end -}}
{{- end -}}
{{- if $part.placement -}}
  {{- $env = append $env (dict "name" "SLIPRING_PLACEMENT" "value" $part.placement) -}}
{{- else if ne $part.configMap "memcached-config" -}}
  {{- $key := dict "name" $part.configMap "key" "SLIPRING_PLACEMENT" "optional" true -}}
  {{- $env = append $env (dict "name" "SLIPRING_PLACEMENT" "valueFrom" (dict "configMapKeyRef" $key)) -}}
{{- end -}}
{{- range $name, $value := $part.env -}}
  {{- $text := kindIs "float64" $value | ternary (int64 $value) $value | toString -}}
  {{- $env = append $env (dict "name" $name "value" $text) -}}
{{- end -}}
{{- $tag := .Values.image.tag | default .Chart.AppVersion -}}
container:
  image: {{ printf "%s:%s" .Values.image.repository $tag | quote }}
  resources: {{ merge (dict "$patch" "replace") $part.resources | toJson }}
  {{- with $env }}
  env: {{ toJson . }}
  {{- end }}
volumes:
{{- if $own }}
  {{- /* For the ring before a planned change alone: it need not be there. */}}
  - {name: slipring-config, configMap: {name: {{ $part.configMap }}, optional: true}}
{{- else }}
  - {name: slipring-config, configMap: {name: {{ $part.configMap }}}}
{{- end }}
{{- end -}}

{{/*
How a part's slipring is to speak to secured nodes, as a patch of a pod: what the components deploy/sidecar/legacy/tls, its
two and auth have for the container, with the names of the part's own Secrets.
*/}}
{{- define "slipring.secured" -}}
{{- $part := .part -}}
{{- $pod := dict "containers" (list (dict "name" "slipring")) -}}
{{- range $name := list "tlsName" "tlsCaSecret" "tlsCertificateSecret" -}}
  {{- if and (get $part $name) (not $part.tls) -}}
    {{- fail (printf "%s.%s: without effect unless given with %s.tls" $.name $name $.name) -}}
  {{- end -}}
{{- end -}}
{{- range $use := list (list "tls" "tls") (list "ca" "tlsCaSecret") (list "certificate" "tlsCertificateSecret") (list "auth" "authSecret") -}}
  {{- $chosen := get $part (last $use) -}}
  {{- if $chosen -}}
    {{- $patch := ($.Files.Get (printf "files/secured/%s.yaml" (first $use)) | fromYaml).spec.template.spec -}}
    {{- range $volume := $patch.volumes -}}
      {{- $_ := set $volume.secret "secretName" $chosen -}}
    {{- end -}}
    {{- include "slipring.patch" (dict "onto" $pod "with" $patch) -}}
  {{- end -}}
{{- end -}}
{{- if $part.tlsName -}}
  {{- $env := list (dict "name" "SLIPRING_NODE_TLS_NAME" "value" $part.tlsName) -}}
  {{- include "slipring.patch" (dict "onto" $pod "with" (dict "containers" (list (dict "name" "slipring" "env" $env)))) -}}
{{- end -}}
{{ toYaml $pod }}
{{- end -}}

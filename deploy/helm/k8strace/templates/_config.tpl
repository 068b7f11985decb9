{{- /* What the other templates read off the gateway's configuration, so that it is said once. */ -}}

{{- /*
The configuration as YAML, without what is null. Two nulls stay, as maps that are empty: a component
that the service names, and protocols of a receiver that has no other; `batch:` and `grpc:` is how
those are written that have their defaults.
*/ -}}
{{- define "k8strace.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- $used := concat (list) (default list $config.service.extensions) -}}
{{- range $pipeline := $config.service.pipelines -}}
{{- with $pipeline -}}
{{- $used = concat $used (default list .receivers) (default list .processors) (default list .exporters) -}}
{{- end -}}
{{- end -}}
{{- range $section, $components := omit $config "service" -}}
{{- if kindIs "map" $components -}}
{{- range $id, $component := $components -}}
{{- if and (kindIs "invalid" $component) (has $id $used) -}}
{{- $_ := set $components $id dict -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $receiver := $config.receivers -}}
{{- if kindIs "map" $receiver -}}
{{- if kindIs "map" $receiver.protocols -}}
{{- $hasOther := false -}}
{{- range $server := $receiver.protocols -}}
{{- $hasOther = or $hasOther (not (kindIs "invalid" $server)) -}}
{{- end -}}
{{- if not $hasOther -}}
{{- range $protocol, $_ := $receiver.protocols -}}
{{- $_ := set $receiver.protocols $protocol dict -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- include "k8strace.yaml" $config -}}
{{- end -}}

{{- /*
Variables of the pod that configurations made for the Collector's chart name, as JSON: a list as in a
container's env, of those that this one names and env has not.
*/ -}}
{{- define "k8strace.downwardEnv" -}}
{{- $config := include "k8strace.config" . -}}
{{- $given := list -}}
{{- range .Values.env -}}
{{- $given = append $given .name -}}
{{- end -}}
{{- $fields := dict "MY_POD_IP" "status.podIP" "OTEL_K8S_NAMESPACE" "metadata.namespace" "OTEL_K8S_NODE_IP" "status.hostIP" "OTEL_K8S_NODE_NAME" "spec.nodeName" "OTEL_K8S_POD_IP" "status.podIP" "OTEL_K8S_POD_NAME" "metadata.name" "K8S_NODE_NAME" "spec.nodeName" -}}
{{- $variables := list -}}
{{- range $name, $field := $fields -}}
{{- if and (regexMatch (printf "\\$\\{(env:)?%s[:}]" $name) $config) (not (has $name $given)) -}}
{{- $variables = append $variables (dict "name" $name "valueFrom" (dict "fieldRef" (dict "fieldPath" $field))) -}}
{{- end -}}
{{- end -}}
{{- toJson $variables -}}
{{- end -}}

{{- /* "true" where an extension of the type `type` is started. */ -}}
{{- define "k8strace.starts" -}}
{{- $config := include "k8strace.config" .root | fromYaml -}}
{{- range $config.service.extensions -}}
{{- if eq (splitList "/" . | first) $.type }}true{{ end -}}
{{- end -}}
{{- end -}}

{{- /* The receivers' ports as JSON: a list of {name, port}; those on localhost are nobody else's. */ -}}
{{- define "k8strace.ports" -}}
{{- $config := include "k8strace.config" . | fromYaml -}}
{{- $ports := list -}}
{{- $used := list -}}
{{- range $pipeline := $config.service.pipelines -}}
{{- $used = concat $used $pipeline.receivers -}}
{{- end -}}
{{- range $id, $receiver := $config.receivers -}}
{{- if and $receiver (has $id $used) -}}
{{- range $protocol, $default := dict "grpc" "localhost:4317" "http" "localhost:4318" -}}
{{- if hasKey (default dict $receiver.protocols) $protocol -}}
{{- $server := get $receiver.protocols $protocol | default dict -}}
{{- $endpoint := $server.endpoint | default $default -}}
{{- if and (ne ($server.transport | default "tcp") "unix") (not (include "k8strace.isLocal" $endpoint)) -}}
{{- $suffix := regexReplaceAll "[^a-z0-9]+" (splitList "/" $id | rest | join "-" | lower) "-" | trimAll "-" -}}
{{- $name := ternary (printf "otlp-%s" $protocol) (printf "%s-%s" $protocol $suffix) (eq $suffix "") -}}
{{- $ports = append $ports (dict "name" ($name | trunc 15 | trimSuffix "-") "port" (include "k8strace.port" $endpoint | int) "protocol" $protocol) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson $ports -}}
{{- end -}}

{{- /* All ports of the container, likewise: the receivers', metrics and health. */ -}}
{{- define "k8strace.allPorts" -}}
{{- $ports := include "k8strace.ports" . | fromJsonArray -}}
{{- with include "k8strace.metricsPort" . -}}
{{- $ports = append $ports (dict "name" "metrics" "port" (int .)) -}}
{{- end -}}
{{- if include "k8strace.starts" (dict "root" . "type" "health_check") -}}
{{- $ports = append $ports (dict "name" "health" "port" (include "k8strace.healthEndpoint" . | include "k8strace.port" | int)) -}}
{{- end -}}
{{- toJson $ports -}}
{{- end -}}

{{- define "k8strace.port" -}}
{{- splitList ":" . | last -}}
{{- end -}}

{{- define "k8strace.isLocal" -}}
{{- if regexMatch "^(localhost|127\\.0\\.0\\.1|\\[::1\\]):" . }}true{{ end -}}
{{- end -}}

{{- define "k8strace.healthEndpoint" -}}
{{- ((.Values.config.extensions | default dict).health_check | default dict).endpoint | default "localhost:13133" -}}
{{- end -}}

{{- /* The metrics' port; empty where there are none, or none for others. */ -}}
{{- define "k8strace.metricsPort" -}}
{{- $metrics := (.Values.config.service.telemetry | default dict).metrics | default dict -}}
{{- if ne ($metrics.level | default "") "none" -}}
{{- range $metrics.readers -}}
{{- with ((.pull).exporter).prometheus -}}
{{- $host := ternary .host "localhost" (hasKey . "host") -}}
{{- if not (include "k8strace.isLocal" (printf "%s:" $host)) -}}
{{- .port | int -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

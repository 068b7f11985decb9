{{- /* What the other templates read off the gateway's configuration, so that it is said once. */ -}}

{{- /* "true" where an extension of the type `type` is started. */ -}}
{{- define "k8strace.starts" -}}
{{- range .root.Values.config.service.extensions -}}
{{- if eq (splitList "/" . | first) $.type }}true{{ end -}}
{{- end -}}
{{- end -}}

{{- /* The receivers' ports as JSON: a list of {name, port}; those on localhost are nobody else's. */ -}}
{{- define "k8strace.ports" -}}
{{- $ports := list -}}
{{- $used := list -}}
{{- range $pipeline := .Values.config.service.pipelines -}}
{{- $used = concat $used $pipeline.receivers -}}
{{- end -}}
{{- range $id, $receiver := .Values.config.receivers -}}
{{- if and $receiver (has $id $used) -}}
{{- range $protocol, $default := dict "grpc" "localhost:4317" "http" "localhost:4318" -}}
{{- if hasKey $receiver.protocols $protocol -}}
{{- $server := get $receiver.protocols $protocol | default dict -}}
{{- $endpoint := $server.endpoint | default $default -}}
{{- if and (ne ($server.transport | default "tcp") "unix") (not (include "k8strace.isLocal" $endpoint)) -}}
{{- $suffix := splitList "/" $id | rest | join "-" | lower -}}
{{- $name := ternary (printf "otlp-%s" $protocol) (printf "%s-%s" $protocol $suffix) (eq $suffix "") -}}
{{- $ports = append $ports (dict "name" ($name | trunc 15 | trimSuffix "-") "port" (include "k8strace.port" $endpoint | int) "protocol" $protocol) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
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
{{- (.Values.config.extensions.health_check | default dict).endpoint | default "localhost:13133" -}}
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

{{- /* Bytes of a quantity such as 512Mi, as an integer. */ -}}
{{- define "k8strace.bytes" -}}
{{- $units := dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- $number := regexFind "^[0-9.]+" (toString .) -}}
{{- $unit := regexFind "[A-Za-z]*$" (toString .) -}}
{{- mulf (float64 $number) (get $units $unit) | int64 -}}
{{- end -}}

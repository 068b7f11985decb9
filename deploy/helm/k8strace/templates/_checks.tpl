{{- /* Values that are right each, and wrong together: all mistakes are told at once. */ -}}
{{- define "k8strace.check" -}}
{{- $wrong := list -}}
{{- $values := .Values -}}
{{- $mode := $values.mode -}}

{{- range $id, $exporter := $values.config.exporters -}}
{{- if and (has (splitList "/" $id | first) (list "otlp" "otlp_grpc")) (not ($exporter | default dict).endpoint) -}}
{{- $wrong = append $wrong (printf "config.exporters.%s.endpoint: name the backend, such as http://tempo.observability.svc:4317 (plaintext) or tempo.example.org:4317 (TLS)" $id) -}}
{{- end -}}
{{- end -}}

{{- if and $values.autoscaling.enabled (ne $mode "deployment") -}}
{{- $wrong = append $wrong (printf "autoscaling.enabled: a %s is not scaled by load; set it to false" $mode) -}}
{{- end -}}
{{- if and $values.autoscaling.enabled (not ($values.resources.requests | default dict).cpu) -}}
{{- $wrong = append $wrong "autoscaling.enabled: it needs resources.requests.cpu, of which cpuPercent is a part" -}}
{{- end -}}
{{- if lt (int $values.autoscaling.maxReplicas) (int $values.autoscaling.minReplicas) -}}
{{- $wrong = append $wrong (printf "autoscaling.maxReplicas: %v is less than minReplicas, %v" $values.autoscaling.maxReplicas $values.autoscaling.minReplicas) -}}
{{- end -}}
{{- if eq $mode "daemonset" -}}
{{- if $values.podDisruptionBudget.enabled -}}
{{- $wrong = append $wrong "podDisruptionBudget.enabled: evictions leave a daemonset alone; set it to false" -}}
{{- end -}}
{{- if and $values.daemonset.hostNetwork $values.networkPolicy.enabled -}}
{{- $wrong = append $wrong "networkPolicy.enabled: policies do not hold for pods with hostNetwork; set it to false" -}}
{{- end -}}
{{- end -}}

{{- $used := list -}}
{{- range $pipeline := $values.config.service.pipelines -}}
{{- $used = concat $used $pipeline.receivers -}}
{{- end -}}
{{- $writable := list -}}
{{- if include "k8strace.hasSocketDirectory" . -}}
{{- $writable = append $writable $values.daemonset.socketDirectory -}}
{{- end -}}
{{- range $values.volumeMounts -}}
{{- $writable = append $writable (toString .mountPath) -}}
{{- end -}}
{{- range $id, $receiver := $values.config.receivers -}}
{{- range $protocol, $server := ($receiver | default dict).protocols -}}
{{- $path := regexReplaceAll "^unix:(//)?" (($server | default dict).endpoint | default "" | toString) "" -}}
{{- if and (has $id $used) (eq (($server | default dict).transport | default "tcp") "unix") (hasPrefix "/" $path) -}}
{{- $found := false -}}
{{- range $writable -}}
{{- $found = or $found (hasPrefix (printf "%s/" (trimSuffix "/" .)) $path) -}}
{{- end -}}
{{- if not $found -}}
{{- $wrong = append $wrong (printf "config.receivers.%s.protocols.%s.endpoint: %s is in no directory that the pod may write; daemonset.socketDirectory is one, in a daemonset" $id $protocol $path) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- if not (include "k8strace.starts" (dict "root" . "type" "health_check")) -}}
{{- $wrong = append $wrong "config.service.extensions: health_check is missing, which the probes ask" -}}
{{- end -}}
{{- if and (include "k8strace.isLocal" (include "k8strace.healthEndpoint" .)) (not (include "k8strace.usesHostNetwork" .)) -}}
{{- $wrong = append $wrong (printf "config.extensions.health_check.endpoint: probes do not reach %s in a pod; write \":13133\"" (include "k8strace.healthEndpoint" .)) -}}
{{- end -}}
{{- if and $values.monitoring.serviceMonitor.enabled (not (include "k8strace.metricsPort" .)) -}}
{{- $wrong = append $wrong "monitoring.serviceMonitor.enabled: config.service.telemetry.metrics has no reader, one on localhost, or level none" -}}
{{- end -}}

{{- $memory := include "k8strace.bytes" $values.resources.limits.memory | int64 -}}
{{- $workers := int64 $values.workers -}}
{{- $processes := ternary $workers (add $workers 1) (eq $workers 1) -}}
{{- $room := include "k8strace.roomForSpans" (dict "root" . "memory" $memory "processes" $processes) | int64 -}}
{{- if le $room 0 -}}
{{- $wrong = append $wrong (printf "resources.limits.memory: %s leaves no room for spans; %d processes take some 64Mi each" $values.resources.limits.memory $processes) -}}
{{- end -}}
{{- range $id, $exporter := $values.config.exporters -}}
{{- $queue := ($exporter | default dict).sending_queue | default dict -}}
{{- if and (eq ($queue.sizer | default "") "bytes") (or (kindIs "float64" $queue.queue_size) (kindIs "int64" $queue.queue_size)) -}}
{{- $size := mul (int64 $queue.queue_size) $workers -}}
{{- $where := printf "config.exporters.%s.sending_queue.queue_size: %d bytes for each of %d workers" $id (int64 $queue.queue_size) $workers -}}
{{- if and (not $queue.storage) (gt $room 0) (gt $size $room) -}}
{{- $wrong = append $wrong (printf "%s are more than the %d that resources.limits.memory, %s, leaves for spans" $where $room $values.resources.limits.memory) -}}
{{- end -}}
{{- $disk := include "k8strace.bytes" $values.persistence.size | int64 -}}
{{- if and $queue.storage (eq $mode "statefulset") (gt (mul 10 $size) (mul 9 $disk)) -}}
{{- $wrong = append $wrong (printf "%s are more than nine tenths of persistence.size, %s" $where $values.persistence.size) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- range $id, $extension := $values.config.extensions -}}
{{- $directory := ($extension | default dict).directory | default "/var/lib/otelcol/file_storage" -}}
{{- if and (eq $mode "statefulset") (eq (splitList "/" $id | first) "file_storage") (not (hasPrefix (printf "%s/" $values.persistence.mountPath) $directory)) -}}
{{- $wrong = append $wrong (printf "config.extensions.%s.directory: %s is not below persistence.mountPath, %s" $id $directory $values.persistence.mountPath) -}}
{{- end -}}
{{- end -}}
{{- if and (eq $mode "statefulset") (not (include "k8strace.starts" (dict "root" . "type" "file_storage"))) -}}
{{- $wrong = append $wrong "config.service.extensions: file_storage is missing, which the statefulset's volume is for" -}}
{{- end -}}

{{- if $wrong -}}
{{- fail (printf "\n  %s\nFiles in variants/ of this chart have values that go together." (join "\n  " $wrong)) -}}
{{- end -}}
{{- end -}}

{{- define "k8strace.usesHostNetwork" -}}
{{- if and (eq .Values.mode "daemonset") .Values.daemonset.hostNetwork }}true{{ end -}}
{{- end -}}

{{- /* Bytes that senders may fill: memory_limiter's soft limit, of half of the memory at most. */ -}}
{{- define "k8strace.roomForSpans" -}}
{{- $own := mul 67108864 .processes -}}
{{- $hard := .memory -}}
{{- $soft := .memory -}}
{{- range $id, $processor := .root.Values.config.processors -}}
{{- $percent := ($processor | default dict).limit_percentage | default 0 | int64 -}}
{{- if and (eq (splitList "/" $id | first) "memory_limiter") (gt $percent 0) -}}
{{- $hard = div (mul $.memory $percent) 100 -}}
{{- $spike := div (mul $.memory ($processor.spike_limit_percentage | default 0 | int64)) 100 -}}
{{- $soft = sub $hard (ternary (div $hard 5) $spike (eq $spike 0)) -}}
{{- end -}}
{{- end -}}
{{- $budget := min (div .memory 2) (sub $hard $own) -}}
{{- min (sub $soft $own) (div (mul $budget $soft) $hard) -}}
{{- end -}}

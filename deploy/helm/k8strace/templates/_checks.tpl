{{- /* Values that are right each, and wrong together: all mistakes are told at once. */ -}}
{{- define "k8strace.check" -}}
{{- $values := .Values -}}
{{- $mode := $values.mode -}}
{{- $config := include "k8strace.config" . | fromYaml -}}
{{- $wrong := include "k8strace.hints" . | fromJsonArray -}}

{{- if not $values.configMap.existingName -}}
{{- range $id, $exporter := $config.exporters -}}
{{- if and (has (splitList "/" $id | first) (list "otlp" "otlp_grpc")) (not ($exporter | default dict).endpoint) -}}
{{- $wrong = append $wrong (printf "config.exporters.%s.endpoint: name the backend, such as http://tempo.observability.svc:4317 (plaintext) or tempo.example.org:4317 (TLS)" $id) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if regexMatch ":[^/]*$|@" (regexReplaceAll "^[^/]*:[0-9]+/" $values.image.repository "") -}}
{{- $wrong = append $wrong (printf "image.repository: %s has a tag or digest: set image.tag or image.digest" $values.image.repository) -}}
{{- end -}}

{{- $scaling := $values.autoscaling -}}
{{- if $scaling.enabled -}}
{{- if ne $mode "deployment" -}}
{{- $wrong = append $wrong (printf "autoscaling.enabled: a %s is not scaled by load; set it to false" $mode) -}}
{{- end -}}
{{- if not (or $scaling.cpuPercent $scaling.memoryPercent $scaling.queue.enabled $scaling.metrics) -}}
{{- $wrong = append $wrong "autoscaling.enabled: there is nothing to scale on: set autoscaling.cpuPercent, .memoryPercent, .queue.enabled or .metrics" -}}
{{- end -}}
{{- $requests := $values.resources.requests | default dict -}}
{{- range $resource, $percent := dict "cpu" $scaling.cpuPercent "memory" $scaling.memoryPercent -}}
{{- if and $percent (not (get $requests $resource)) -}}
{{- $wrong = append $wrong (printf "autoscaling.enabled: it needs resources.requests.%s, of which %sPercent is a part" $resource $resource) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if lt (int $scaling.maxReplicas) (int $scaling.minReplicas) -}}
{{- $wrong = append $wrong (printf "autoscaling.maxReplicas: %v is less than minReplicas, %v" $scaling.maxReplicas $scaling.minReplicas) -}}
{{- end -}}
{{- $budget := $values.podDisruptionBudget -}}
{{- if and $budget.enabled (kindIs "invalid" $budget.maxUnavailable) (eq (toString ($budget.minAvailable | default "")) "") (not (kindIs "float64" $budget.minAvailable)) -}}
{{- $wrong = append $wrong "podDisruptionBudget.maxUnavailable: it or minAvailable is needed" -}}
{{- end -}}
{{- if eq $mode "daemonset" -}}
{{- if $values.podDisruptionBudget.enabled -}}
{{- $wrong = append $wrong "podDisruptionBudget.enabled: evictions leave a daemonset alone; set it to false" -}}
{{- end -}}
{{- if and $values.daemonset.hostNetwork $values.networkPolicy.enabled -}}
{{- $wrong = append $wrong "networkPolicy.enabled: policies do not hold for pods with hostNetwork; set it to false" -}}
{{- end -}}
{{- end -}}

{{- $ports := include "k8strace.allPorts" . | fromJsonArray -}}
{{- $names := list -}}
{{- range $ports -}}
{{- if has .name $names -}}
{{- $wrong = append $wrong (printf "config.receivers: two of the pod's ports would be called %s, of at most 15 characters; rename a receiver" .name) -}}
{{- end -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- $wrong = concat $wrong (include "k8strace.portHints" (dict "path" "hostPorts" "given" $values.hostPorts "ports" $ports) | fromJsonArray) -}}
{{- if include "k8strace.usesHostNetwork" . -}}
{{- range $port := $ports -}}
{{- with get (default dict $values.hostPorts) .name -}}
{{- if ne (int .) (int $port.port) -}}
{{- $wrong = append $wrong (printf "hostPorts.%s: %d is not the port, %d: pods with daemonset.hostNetwork listen on the node itself" $port.name (int .) (int $port.port)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- $service := $values.service -}}
{{- $wrong = concat $wrong (include "k8strace.portHints" (dict "path" "service.nodePorts" "given" $service.nodePorts "ports" (include "k8strace.ports" . | fromJsonArray)) | fromJsonArray) -}}
{{- $types := dict "loadBalancerIP" (list "LoadBalancer") "loadBalancerClass" (list "LoadBalancer") "loadBalancerSourceRanges" (list "LoadBalancer") "nodePorts" (list "NodePort" "LoadBalancer") "externalTrafficPolicy" (list "NodePort" "LoadBalancer") -}}
{{- range $name, $allowed := $types -}}
{{- if and (get $service $name) (not (has $service.type $allowed)) -}}
{{- $wrong = append $wrong (printf "service.%s: a Service of type %s has none; set service.type to %s" $name $service.type (join " or " $allowed)) -}}
{{- end -}}
{{- end -}}
{{- if and (eq ($service.clusterIP | default "") "None") (ne $service.type "ClusterIP") -}}
{{- $wrong = append $wrong (printf "service.clusterIP: a Service of type %s has an address; None is for ClusterIP" $service.type) -}}
{{- end -}}

{{- $used := list -}}
{{- range $pipeline := $config.service.pipelines -}}
{{- $used = concat $used $pipeline.receivers -}}
{{- end -}}
{{- $writable := list -}}
{{- if include "k8strace.hasSocketDirectory" . -}}
{{- $writable = append $writable $values.daemonset.socketDirectory -}}
{{- end -}}
{{- range $values.volumeMounts -}}
{{- $writable = append $writable (toString .mountPath) -}}
{{- end -}}
{{- range $id, $receiver := $config.receivers -}}
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

{{- if include "k8strace.probesHealth" . -}}
{{- if not (include "k8strace.starts" (dict "root" . "type" "health_check")) -}}
{{- $wrong = append $wrong "config.service.extensions: health_check is missing, which the probes ask" -}}
{{- end -}}
{{- if and (include "k8strace.isLocal" (include "k8strace.healthEndpoint" .)) (not (include "k8strace.usesHostNetwork" .)) -}}
{{- $wrong = append $wrong (printf "config.extensions.health_check.endpoint: probes do not reach %s in a pod; write \":13133\"" (include "k8strace.healthEndpoint" .)) -}}
{{- end -}}
{{- end -}}
{{- if and $values.monitoring.serviceMonitor.enabled (not (include "k8strace.metricsPort" .)) -}}
{{- $wrong = append $wrong "monitoring.serviceMonitor.enabled: config.service.telemetry.metrics has no reader, one on localhost, or level none" -}}
{{- end -}}

{{- $memory := include "k8strace.bytes" $values.resources.limits.memory | float64 -}}
{{- $workers := int64 $values.workers -}}
{{- $processes := ternary $workers (add $workers 1) (eq $workers 1) -}}
{{- $room := include "k8strace.roomForSpans" (dict "config" $config "memory" $memory "processes" $processes) | float64 -}}
{{- if le $room 0.0 -}}
{{- $wrong = append $wrong (printf "resources.limits.memory: %v leaves no room for spans; %d processes take some 64Mi each" $values.resources.limits.memory $processes) -}}
{{- end -}}
{{- range $id, $exporter := $config.exporters -}}
{{- $queue := ($exporter | default dict).sending_queue | default dict -}}
{{- if and (eq ($queue.sizer | default "") "bytes") (kindIs "float64" $queue.queue_size) -}}
{{- $size := mulf $queue.queue_size $workers -}}
{{- $where := printf "config.exporters.%s.sending_queue.queue_size: %.0f bytes for each of %d workers" $id $queue.queue_size $workers -}}
{{- if and (not $queue.storage) (gt $room 0.0) (gt $size $room) -}}
{{- $wrong = append $wrong (printf "%s are more than the %.0f that resources.limits.memory, %v, leaves for spans" $where $room $values.resources.limits.memory) -}}
{{- end -}}
{{- $disk := include "k8strace.bytes" $values.persistence.size | float64 -}}
{{- if and $queue.storage (eq $mode "statefulset") (gt $size (mulf 0.9 $disk)) -}}
{{- $wrong = append $wrong (printf "%s are more than nine tenths of persistence.size, %v" $where $values.persistence.size) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- range $id, $extension := $config.extensions -}}
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

{{- /* As JSON: a line for each value that is given by a name of another chart. */ -}}
{{- define "k8strace.hints" -}}
{{- $found := list -}}
{{- range $path, $hint := .Files.Get "hints.yaml" | fromYaml -}}
{{- $value := $.Values -}}
{{- range $name := splitList "." $path -}}
{{- $value = ternary (get (ternary $value dict (kindIs "map" $value)) $name) "" (kindIs "map" $value) -}}
{{- end -}}
{{- if not (or (kindIs "invalid" $value) (eq (toString $value) "")) -}}
{{- $found = append $found (printf "%s: not a value of this chart: %s" $path $hint) -}}
{{- end -}}
{{- end -}}
{{- toJson $found -}}
{{- end -}}

{{- /* As JSON: a line for each key of `given` that is not the name of a port. */ -}}
{{- define "k8strace.portHints" -}}
{{- $found := list -}}
{{- $names := list -}}
{{- range .ports -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- range $name, $_ := .given -}}
{{- if not (has $name $names) -}}
{{- $found = append $found (printf "%s.%s: there is no such port; there are %s" $.path $name (join ", " $names)) -}}
{{- end -}}
{{- end -}}
{{- toJson $found -}}
{{- end -}}

{{- /*
Bytes that senders may fill: memory_limiter's soft limit, of half of the memory at most. Floats, since
products of bytes go past 64 bits.
*/ -}}
{{- define "k8strace.roomForSpans" -}}
{{- $own := mulf 67108864 .processes -}}
{{- $hard := .memory -}}
{{- $soft := .memory -}}
{{- range $components := list .config.processors .config.extensions -}}
{{- range $id, $limiter := $components -}}
{{- if eq (splitList "/" $id | first) "memory_limiter" -}}
{{- $limiter = default dict $limiter -}}
{{- $mib := float64 ($limiter.limit_mib | default 0) -}}
{{- $percent := float64 ($limiter.limit_percentage | default 0) -}}
{{- if or $mib $percent -}}
{{- $limit := ternary (mulf $mib 1048576) (mulf $.memory (divf $percent 100)) (gt $mib 0.0) -}}
{{- $spike := ternary (mulf ($limiter.spike_limit_mib | default 0) 1048576) (mulf $.memory (divf ($limiter.spike_limit_percentage | default 0) 100)) (gt $mib 0.0) -}}
{{- $below := subf $limit (ternary (divf $limit 5) $spike (eq $spike 0.0)) -}}
{{- $hard = minf $hard $limit -}}
{{- $soft = minf $soft $below -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if gt $hard 0.0 -}}
{{- $budget := minf (divf .memory 2) (subf $hard $own) -}}
{{- minf (subf $soft $own) (mulf $budget (divf $soft $hard)) | floor | printf "%.0f" -}}
{{- else -}}
0
{{- end -}}
{{- end -}}

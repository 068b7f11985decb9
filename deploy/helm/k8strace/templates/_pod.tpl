{{- /* The pod of all modes. */ -}}
{{- define "k8strace.pod" -}}
{{- $values := .Values -}}
{{- $hasSocket := include "k8strace.hasSocketDirectory" . -}}
metadata:
  labels:
    {{- include "k8strace.labels" (dict "root" . "labels" $values.podLabels) | nindent 4 }}
  {{- $checksum := dict -}}
  {{- if not $values.configMap.existingName }}
  {{- $_ := set $checksum "checksum/config" (include "k8strace.config" . | sha256sum) }}
  {{- end }}
  {{- with merge dict (default dict $values.podAnnotations) $checksum }}
  annotations:
    {{- include "k8strace.yaml" . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "k8strace.serviceAccountName" . }}
  automountServiceAccountToken: {{ or $values.serviceAccount.automountServiceAccountToken (include "k8strace.reviewsTokens" . | eq "true") }}
  enableServiceLinks: false
  # The endpoint is left first, then the gateway drains; ten seconds are for what follows.
  terminationGracePeriodSeconds: {{ add $values.drain.preStopSeconds $values.drain.shutdownTimeoutSeconds 10 }}
  {{- if include "k8strace.usesHostNetwork" . }}
  hostNetwork: true
  {{- end }}
  {{- with $values.dnsPolicy | default (ternary "ClusterFirstWithHostNet" "" (include "k8strace.usesHostNetwork" . | eq "true")) }}
  dnsPolicy: {{ . }}
  {{- end }}
  {{- with $values.dnsConfig }}
  dnsConfig:
    {{- include "k8strace.yaml" . | nindent 4 }}
  {{- end }}
  {{- with $values.hostAliases }}
  hostAliases:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.podSecurityContext }}
  securityContext:
    {{- include "k8strace.yaml" . | nindent 4 }}
  {{- end }}
  {{- with $values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if or $hasSocket $values.initContainers }}
  initContainers:
    {{- if $hasSocket }}
    {{- include "k8strace.socketDirectoryContainer" . | nindent 4 }}
    {{- end }}
    {{- with $values.initContainers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- end }}
  containers:
    - name: k8strace
      image: {{ include "k8strace.image" . }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      args:
        - --config=/etc/k8strace/{{ $values.configMap.key }}
        - --shutdown-timeout={{ $values.drain.shutdownTimeoutSeconds }}
        {{- if gt (int $values.workers) 1 }}
        - --workers={{ $values.workers }}
        {{- end }}
        {{- with $values.extraArgs }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with concat (include "k8strace.downwardEnv" . | fromJsonArray) (default list $values.env) }}
      env:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $values.envFrom }}
      envFrom:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with include "k8strace.allPorts" . | fromJsonArray }}
      ports:
        {{- range . }}
        {{- $host := get (default dict $values.hostPorts) .name }}
        - {name: {{ .name }}, containerPort: {{ .port }}{{ with $host }}, hostPort: {{ int . }}{{ end }}}
        {{- end }}
      {{- end }}
      {{- range $name, $path := dict "livenessProbe" "/livez" "readinessProbe" "/readyz" "startupProbe" "/livez" }}
      {{- with get $values $name }}
      {{ $name }}:
        {{- include "k8strace.probe" (dict "root" $ "probe" . "path" $path) | nindent 8 }}
      {{- end }}
      {{- end }}
      lifecycle:
        # Until senders have heard that this pod is not to be connected to any more.
        preStop:
          exec: {command: [sleep, {{ $values.drain.preStopSeconds | quote }}]}
      resources:
        {{- include "k8strace.yaml" $values.resources | nindent 8 }}
      {{- with $values.securityContext }}
      securityContext:
        {{- include "k8strace.yaml" . | nindent 8 }}
      {{- end }}
      volumeMounts:
        - {name: config, mountPath: /etc/k8strace, readOnly: true}
        {{- if eq $values.mode "statefulset" }}
        - {name: queue, mountPath: {{ $values.persistence.mountPath }}}
        {{- end }}
        {{- if $hasSocket }}
        - {name: socket, mountPath: {{ $values.daemonset.socketDirectory }}}
        {{- end }}
        {{- with $values.volumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    {{- with $values.extraContainers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  volumes:
    - name: config
      configMap: {name: {{ $values.configMap.existingName | default (include "k8strace.fullname" .) }}}
    {{- if $hasSocket }}
    - name: socket
      hostPath: {path: {{ $values.daemonset.socketDirectory }}, type: DirectoryOrCreate}
    {{- end }}
    {{- with $values.volumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- range $name := list "priorityClassName" "runtimeClassName" "schedulerName" }}
  {{- with get $values $name }}
  {{ $name }}: {{ . }}
  {{- end }}
  {{- end }}
  {{- range $name := list "nodeSelector" "affinity" }}
  {{- with default dict (get $values $name) | include "k8strace.yaml" | fromYaml }}
  {{ $name }}:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
  {{- with $values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{- /*
A directory of the node is root's; the gateway, which is not, makes its socket in it. Where no
user is given the image's own counts.
*/ -}}
{{- define "k8strace.socketDirectoryContainer" -}}
{{- $context := default dict .Values.podSecurityContext -}}
- name: socket-directory
  image: {{ include "k8strace.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [chown, {{ printf "%d:%d" (int64 ($context.runAsUser | default 10001)) (int64 ($context.runAsGroup | default 10001)) | quote }}, {{ .Values.daemonset.socketDirectory }}]
  resources:
    requests: {cpu: 10m, memory: 16Mi}
    limits: {memory: 16Mi}
  securityContext:
    runAsUser: 0
    runAsNonRoot: false
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    capabilities: {drop: [ALL], add: [CHOWN]}
  volumeMounts:
    - {name: socket, mountPath: {{ .Values.daemonset.socketDirectory }}}
{{- end -}}

{{- define "k8strace.hasSocketDirectory" -}}
{{- if and (eq .Values.mode "daemonset") .Values.daemonset.socketDirectory }}true{{ end -}}
{{- end -}}

{{- /* A probe of health_check at `path`, unless the probe itself says what to ask. */ -}}
{{- define "k8strace.probe" -}}
{{- $probe := include "k8strace.yaml" .probe | fromYaml -}}
{{- if not (include "k8strace.hasHandler" $probe) -}}
{{- $get := dict "path" .path "port" "health" -}}
{{- if include "k8strace.isLocal" (include "k8strace.healthEndpoint" .root) -}}
{{- $_ := set $get "host" "127.0.0.1" -}}
{{- end -}}
{{- $_ := set $probe "httpGet" $get -}}
{{- end -}}
{{- toYaml $probe -}}
{{- end -}}

{{- define "k8strace.hasHandler" -}}
{{- if or .exec .grpc .httpGet .tcpSocket }}true{{ end -}}
{{- end -}}

{{- /* "true" where a probe asks health_check. */ -}}
{{- define "k8strace.probesHealth" -}}
{{- $asks := false -}}
{{- range $probe := list .Values.livenessProbe .Values.readinessProbe .Values.startupProbe -}}
{{- $asks = or $asks (and $probe (not (include "k8strace.hasHandler" $probe))) -}}
{{- end -}}
{{- if $asks }}true{{ end -}}
{{- end -}}

{{- define "k8strace.reviewsTokens" -}}
{{- include "k8strace.starts" (dict "root" . "type" "k8s_token_review") -}}
{{- end -}}

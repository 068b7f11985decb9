{{- /* The pod of all modes. */ -}}
{{- define "k8strace.pod" -}}
{{- $health := include "k8strace.healthEndpoint" . -}}
metadata:
  labels:
    {{- include "k8strace.labels" . | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    checksum/config: {{ toYaml .Values.config | sha256sum }}
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "k8strace.serviceAccountName" . }}
  automountServiceAccountToken: {{ include "k8strace.reviewsTokens" . | eq "true" }}
  enableServiceLinks: false
  # The endpoint is left first, then the gateway drains; ten seconds are for what follows.
  terminationGracePeriodSeconds: {{ add .Values.drain.preStopSeconds .Values.drain.shutdownTimeoutSeconds 10 }}
  {{- if include "k8strace.usesHostNetwork" . }}
  hostNetwork: true
  dnsPolicy: ClusterFirstWithHostNet
  {{- end }}
  securityContext:
    runAsNonRoot: true
    seccompProfile: {type: RuntimeDefault}
    {{- toYaml .Values.podSecurityContext | nindent 4 }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if include "k8strace.hasSocketDirectory" . }}
  initContainers:
    # A directory of the node is root's; the gateway, which is not, makes its socket in it.
    - name: socket-directory
      image: {{ include "k8strace.image" . }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      command: [chown, {{ printf "%v:%v" (int .Values.podSecurityContext.runAsUser) (int .Values.podSecurityContext.runAsGroup) | quote }}, {{ .Values.daemonset.socketDirectory }}]
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
  {{- end }}
  containers:
    - name: k8strace
      image: {{ include "k8strace.image" . }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args:
        - --config=/etc/k8strace/config.yaml
        - --shutdown-timeout={{ .Values.drain.shutdownTimeoutSeconds }}
        {{- if gt (int .Values.workers) 1 }}
        - --workers={{ .Values.workers }}
        {{- end }}
      {{- with .Values.env }}
      env:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      ports:
        {{- range include "k8strace.ports" . | fromJsonArray }}
        - {name: {{ .name }}, containerPort: {{ .port }}}
        {{- end }}
        {{- with include "k8strace.metricsPort" . }}
        - {name: metrics, containerPort: {{ . }}}
        {{- end }}
        - {name: health, containerPort: {{ include "k8strace.port" $health }}}
      livenessProbe:
        httpGet: {path: /livez, port: health{{ include "k8strace.probeHost" . }}}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      readinessProbe:
        httpGet: {path: /readyz, port: health{{ include "k8strace.probeHost" . }}}
        periodSeconds: 5
        timeoutSeconds: 5
        failureThreshold: 2
      lifecycle:
        # Until senders have heard that this pod is not to be connected to any more.
        preStop:
          exec: {command: [sleep, {{ .Values.drain.preStopSeconds | quote }}]}
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL]}
      volumeMounts:
        - {name: config, mountPath: /etc/k8strace, readOnly: true}
        {{- if eq .Values.mode "statefulset" }}
        - {name: queue, mountPath: {{ .Values.persistence.mountPath }}}
        {{- end }}
        {{- if include "k8strace.hasSocketDirectory" . }}
        - {name: socket, mountPath: {{ .Values.daemonset.socketDirectory }}}
        {{- end }}
        {{- with .Values.volumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: config
      configMap: {name: {{ include "k8strace.fullname" . }}}
    {{- if include "k8strace.hasSocketDirectory" . }}
    - name: socket
      hostPath: {path: {{ .Values.daemonset.socketDirectory }}, type: DirectoryOrCreate}
    {{- end }}
    {{- with .Values.volumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{- define "k8strace.hasSocketDirectory" -}}
{{- if and (eq .Values.mode "daemonset") .Values.daemonset.socketDirectory }}true{{ end -}}
{{- end -}}

{{- define "k8strace.probeHost" -}}
{{- if include "k8strace.isLocal" (include "k8strace.healthEndpoint" .) }}, host: 127.0.0.1{{ end -}}
{{- end -}}

{{- define "k8strace.reviewsTokens" -}}
{{- include "k8strace.starts" (dict "root" . "type" "k8s_token_review") -}}
{{- end -}}

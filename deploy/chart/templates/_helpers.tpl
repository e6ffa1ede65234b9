{{- define "offramp.name" -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "offramp.selector" -}}
app.kubernetes.io/name: offramp
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "offramp.labels" -}}
{{ include "offramp.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end -}}

{{- define "offramp.config" -}}
{{- $store := dict "store" "sqlite:///var/lib/offramp/offramp.db" -}}
{{- $admin := dict "listen" "0.0.0.0:8081" -}}
{{- if .Values.secrets.adminToken.name -}}
{{- $_ := set $admin "token_file" "/run/secrets/offramp-admin/token" -}}
{{- end -}}
{{- $own := dict
    "listen" "0.0.0.0:8080"
    "admin" $admin
    "secret_key_file" "/run/secrets/offramp/offramp.key"
    "instance" (dict "drain_timeout" (printf "%vs" .Values.shutdown.drainSeconds))
    "log" (dict "format" "json") -}}
{{- if eq .Values.mode "single" -}}{{- $own = merge $own $store -}}{{- end -}}
{{- if .Values.policies -}}{{- $_ := set $own "policies" "policies.yaml" -}}{{- end -}}
{{- toYaml (mustMergeOverwrite $own .Values.config) -}}
{{- end -}}

{{/* Refuse what would be installed and not do what it says. */}}
{{- define "offramp.check" -}}
{{- if not (has .Values.mode (list "fleet" "single")) -}}
{{- fail (printf "mode: %q is neither \"fleet\" nor \"single\"" .Values.mode) -}}
{{- end -}}
{{- $needed := add .Values.shutdown.pauseSeconds .Values.shutdown.drainSeconds 5 -}}
{{- if lt (int .Values.shutdown.graceSeconds) (int $needed) -}}
{{- fail (printf "shutdown.graceSeconds: must be at least %d, for the pause, the drain and 5 s more: streams are cut otherwise" $needed) -}}
{{- end -}}
{{- $listen := .Values.config.listen | default "0.0.0.0:8080" -}}
{{- if not (hasSuffix ":8080" $listen) -}}
{{- fail "config.listen: must keep port 8080, to which the Service leads; what callers use is service.port" -}}
{{- end -}}
{{- $admin := (.Values.config.admin | default dict).listen | default "0.0.0.0:8081" -}}
{{- if not (hasSuffix ":8081" $admin) -}}
{{- fail "config.admin.listen: must keep port 8081, which probes and scrapes ask" -}}
{{- end -}}
{{- end -}}

{{/* What probes ask: by TLS, if the listener speaks it. */}}
{{- define "offramp.probe" -}}
{{- $admin := .Values.config.admin | default dict -}}
{path: /livez, port: admin{{ if $admin.tls }}, scheme: HTTPS{{ end }}}
{{- end -}}

{{/* The pod: the same in both modes but for the store. */}}
{{- define "offramp.pod" -}}
metadata:
  labels:
    {{- include "offramp.labels" . | nindent 4 }}
  annotations:
    # A changed configuration is a new pod. (Policies alone would be read again.)
    checksum/config: {{ include "offramp.config" . | sha256sum }}
    prometheus.io/scrape: "true"
    prometheus.io/port: "8081"
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ .Values.shutdown.graceSeconds }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 10001
    runAsGroup: 10001
    # Lets the process read the mounted secrets, and write to the volume.
    fsGroup: 10001
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile:
      type: RuntimeDefault
  {{- if eq .Values.mode "fleet" }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "offramp.selector" . | nindent 10 }}
  {{- end }}
  containers:
    - name: offramp
      image: "{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}"
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      {{- if eq .Values.mode "fleet" }}
      env:
        - name: OFFRAMP_STORE
          valueFrom:
            secretKeyRef:
              name: {{ .Values.secrets.redisUrl.name }}
              key: {{ .Values.secrets.redisUrl.key }}
      {{- end }}
      ports:
        - name: http
          containerPort: 8080
        - name: admin
          containerPort: 8081
      # Until it listens, which is after the store is open.
      # A start that fails ends by itself; one that brings a large store up to date takes minutes.
      startupProbe:
        httpGet: {{ include "offramp.probe" . }}
        periodSeconds: 1
        failureThreshold: 600
        timeoutSeconds: 3
      # Not /readyz: that asks the store too. Were the whole fleet unready while Redis
      # restarts, interactive calls would fail, which do not need a store.
      readinessProbe:
        httpGet: {{ include "offramp.probe" . }}
        periodSeconds: 5
        timeoutSeconds: 3
      livenessProbe:
        httpGet: {{ include "offramp.probe" . }}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      lifecycle:
        # Calls still arrive until every node has heard that the pod leaves. Not
        # POST /drain: the process would stop listening too early, as at SIGTERM.
        preStop:
          sleep:
            seconds: {{ .Values.shutdown.pauseSeconds }}
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities:
          drop: [ALL]
      volumeMounts:
        - {name: config, mountPath: /etc/offramp, readOnly: true}
        - {name: sealing-key, mountPath: /run/secrets/offramp, readOnly: true}
        {{- if .Values.secrets.adminToken.name }}
        - {name: admin-token, mountPath: /run/secrets/offramp-admin, readOnly: true}
        {{- end }}
        {{- range .Values.secrets.more }}
        - {name: secret-{{ . }}, mountPath: /run/secrets/{{ . }}, readOnly: true}
        {{- end }}
        - {name: jobs, mountPath: /var/lib/offramp}
        - {name: tmp, mountPath: /tmp}
  volumes:
    - name: config
      configMap:
        name: {{ include "offramp.name" . }}
    - name: sealing-key
      secret:
        secretName: {{ .Values.secrets.sealingKey.name }}
        # A key file that others may read is refused.
        defaultMode: 288 # 0440: octal numbers read differently in YAML 1.1 and 1.2
        items:
          - {key: {{ .Values.secrets.sealingKey.key }}, path: offramp.key}
    {{- with .Values.secrets.adminToken }}
    {{- if .name }}
    - name: admin-token
      secret:
        secretName: {{ .name }}
        defaultMode: 288 # 0440: octal numbers read differently in YAML 1.1 and 1.2
        items:
          - {key: {{ .key }}, path: token}
    {{- end }}
    {{- end }}
    {{- range .Values.secrets.more }}
    - name: secret-{{ . }}
      secret:
        secretName: {{ . }}
        defaultMode: 288 # 0440: octal numbers read differently in YAML 1.1 and 1.2
    {{- end }}
    {{- if eq .Values.mode "fleet" }}
    # Nothing durable: a home that can be written to.
    - name: jobs
      emptyDir: {}
    {{- end }}
    - name: tmp
      emptyDir: {medium: Memory, sizeLimit: 64Mi}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

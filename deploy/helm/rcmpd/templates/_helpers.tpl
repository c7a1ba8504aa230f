{{- define "rcmpd.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Of the Job that creates the database: the Service must not select its pod. */}}
{{- define "rcmpd.domain.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}-domain
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "rcmpd.image" -}}
"{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}"
{{- end }}

{{- define "rcmpd.check" -}}
{{- if not (has .Values.mode (list "server" "sidecar")) }}{{ fail (printf "mode is %q: say server or sidecar" .Values.mode) }}{{ end }}
{{- if not .Values.config }}{{ fail "config is empty: it is rcmpd.toml, for instance --set-file config=rcmpd.toml" }}{{ end }}
{{- if and (eq .Values.mode "server") (gt (int .Values.servers) 1) }}
{{- if not (regexMatch `(?m)^\s*kind\s*=\s*"postgres"` .Values.config) }}{{ fail "servers is more than 1: [store] needs kind = \"postgres\"" }}{{ end }}
{{- if not (regexMatch `(?m)^\s*shared\s*=\s*true` .Values.config) }}{{ fail "servers is more than 1: [channels] needs shared = true" }}{{ end }}
{{- end }}
{{- if and (eq .Values.mode "sidecar") (not .Values.application.image) }}{{ fail "application.image is empty: mode sidecar stands before an application" }}{{ end }}
{{- if and (eq .Values.mode "sidecar") (not .Values.webServer.configuration) }}{{ fail "webServer.configuration is empty: print it with rcmpd proxy-config nginx" }}{{ end }}
{{- end }}

{{- define "rcmpd.container" -}}
name: rcmpd
image: {{ include "rcmpd.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
args: ["serve", "-c", "/etc/rcmpd/rcmpd.toml"]
ports:
  - {name: admin, containerPort: 9464}
  {{- if eq .Values.mode "server" }}
  {{- range $name, $port := .Values.ports }}
  - {name: {{ $name }}, containerPort: {{ $port }}}
  {{- end }}
  {{- end }}
livenessProbe:
  httpGet: {path: /live, port: admin}
  periodSeconds: 10
  failureThreshold: 3
readinessProbe:
  httpGet: {path: /ready, port: admin}
  periodSeconds: 5
startupProbe:
  httpGet: {path: /ready, port: admin}
  periodSeconds: 2
  failureThreshold: 60
securityContext: {{- include "rcmpd.securityContext" . | nindent 2 }}
resources: {{- toYaml .Values.resources | nindent 2 }}
volumeMounts: {{- include "rcmpd.mounts" . | nindent 2 }}
{{- end }}

{{- define "rcmpd.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "rcmpd.mounts" -}}
- {name: config, mountPath: /etc/rcmpd, readOnly: true}
{{- if .Values.secret }}
- {name: secret, mountPath: /etc/rcmpd/secrets, readOnly: true}
{{- end }}
- {name: sockets, mountPath: /run/rcmpd}
- {name: data, mountPath: /var/lib/rcmpd}
{{- end }}

{{- define "rcmpd.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "rcmpd.volumes" -}}
- name: config
  configMap: {name: {{ .Release.Name }}-rcmpd, items: [{key: rcmpd.toml, path: rcmpd.toml}]}
{{- if .Values.secret }}
- name: secret
  secret: {secretName: {{ .Values.secret }}, defaultMode: 0440}
{{- end }}
- name: sockets
  emptyDir: {medium: Memory, sizeLimit: 1Mi}
{{- end }}

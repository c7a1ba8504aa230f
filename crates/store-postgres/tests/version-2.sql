CREATE SCHEMA rcmpd;
CREATE TABLE rcmpd.account (
    rid bigint NOT NULL,
    name text NOT NULL,
    name_key text NOT NULL COLLATE pg_catalog."C",
    kind text NOT NULL,
    user_principal_name text,
    service_principal_names text NOT NULL,
    alt_security_identities text NOT NULL,
    flags bigint NOT NULL,
    primary_group_id bigint NOT NULL,
    expires bigint NOT NULL,
    created bigint NOT NULL,
    password_last_set bigint NOT NULL,
    password_can_change bigint NOT NULL,
    password_must_change bigint NOT NULL,
    logon_hours bytea,
    logon_count bigint NOT NULL,
    bad_password_count bigint NOT NULL,
    profile text NOT NULL,
    extra_sids text NOT NULL,
    group_rids bytea NOT NULL,
    home_domain text
);
CREATE TABLE rcmpd.account_group (
    rid bigint NOT NULL,
    name text NOT NULL,
    name_key text NOT NULL COLLATE pg_catalog."C",
    scope text NOT NULL
);
CREATE TABLE rcmpd.account_key (
    kind bigint NOT NULL,
    key text NOT NULL COLLATE pg_catalog."C",
    rid bigint NOT NULL
);
CREATE TABLE rcmpd.challenge (
    place bigint NOT NULL,
    id bytea NOT NULL,
    ends bigint NOT NULL,
    sealed bytea NOT NULL
);
CREATE TABLE rcmpd.channel (
    id bytea NOT NULL,
    account text NOT NULL,
    sid text NOT NULL COLLATE pg_catalog."C",
    computer bytea NOT NULL,
    kind bigint NOT NULL,
    negotiated_flags bigint NOT NULL,
    requested_flags bigint NOT NULL,
    ends bigint NOT NULL,
    sealed bytea NOT NULL,
    generation bigint NOT NULL,
    credential bytea NOT NULL
);
CREATE TABLE rcmpd.domain (
    id bigint NOT NULL,
    netbios text NOT NULL,
    dns text NOT NULL,
    sid text NOT NULL,
    next_rid bigint NOT NULL,
    fold text NOT NULL,
    sealing_key_check bytea,
    CONSTRAINT domain_id_check CHECK ((id = 1))
);
CREATE TABLE rcmpd.machine (
    rid bigint NOT NULL,
    name text NOT NULL,
    name_key text NOT NULL COLLATE pg_catalog."C",
    kind text NOT NULL,
    enabled boolean NOT NULL,
    rcmp boolean NOT NULL,
    scope_domains text NOT NULL,
    scope_groups text NOT NULL,
    current_since bigint NOT NULL,
    sealed bytea NOT NULL
);
CREATE TABLE rcmpd.member (
    group_rid bigint NOT NULL,
    member_rid bigint NOT NULL
);
CREATE TABLE rcmpd.name_twin (
    name_key text NOT NULL COLLATE pg_catalog."C",
    wide_key text NOT NULL COLLATE pg_catalog."C",
    folded text NOT NULL
);
CREATE TABLE rcmpd.nt_hash (
    rid bigint NOT NULL,
    sealed bytea NOT NULL
);
CREATE TABLE rcmpd.password_hash (
    rid bigint NOT NULL,
    sealed bytea NOT NULL
);
CREATE TABLE rcmpd.revision (
    id bigint NOT NULL,
    accounts bigint NOT NULL,
    accounts_epoch bigint NOT NULL,
    account_groups bigint NOT NULL,
    account_groups_epoch bigint NOT NULL,
    machines bigint NOT NULL,
    machines_epoch bigint NOT NULL,
    CONSTRAINT revision_id_check CHECK ((id = 1))
);
CREATE TABLE rcmpd.schema_version (
    id bigint NOT NULL,
    version bigint NOT NULL,
    CONSTRAINT schema_version_id_check CHECK ((id = 1))
);
INSERT INTO rcmpd.account VALUES (1001, 'alice', 'alice', 'user', 'alice@contoso.example', '[]', '[]', 512, 513, 9223372036854775807, 134405528753340456, 134405528753340456, 134405528753340456, 9223372036854775807, NULL, 0, 0, '{"full_name":"Alice Adams"}', '[]', '\x010200004d0400004e0400004f040000', NULL);
INSERT INTO rcmpd.account VALUES (1002, 'bob', 'bob', 'user', 'bob@contoso.example', '[]', '["X509:<I>O=Contoso,CN=Contoso Demo CA<SR>db34561dffccca62c0a2d7d3b3d8e444"]', 512, 513, 9223372036854775807, 134405528753340456, 134405528753340456, 134405528753340456, 9223372036854775807, NULL, 0, 0, '{"full_name":"Bob Baker"}', '[]', '\x010200004e0400004f040000', NULL);
INSERT INTO rcmpd.account VALUES (1003, 'carol', 'carol', 'user', 'carol@contoso.example', '[]', '["X509:<I>O=Contoso,CN=Contoso Demo CA<S>O=Contoso,OU=People,CN=Carol Carter"]', 512, 513, 9223372036854775807, 134405528753340456, 134405528753340456, 134405528753340456, 9223372036854775807, NULL, 0, 0, '{"full_name":"Carol Carter"}', '[]', '\x010200004f040000', NULL);
INSERT INTO rcmpd.account VALUES (1004, 'WEB01$', 'web01$', 'computer', NULL, '["host/web01.contoso.example"]', '[]', 4096, 515, 9223372036854775807, 134405528753340456, 134405528753340456, 134405528753340456, 9223372036854775807, NULL, 0, 0, '{}', '[]', '\x0302000050040000', NULL);
INSERT INTO rcmpd.account_group VALUES (513, 'Domain Users', 'domain users', 'global');
INSERT INTO rcmpd.account_group VALUES (515, 'Domain Computers', 'domain computers', 'global');
INSERT INTO rcmpd.account_group VALUES (1101, 'Engineers', 'engineers', 'global');
INSERT INTO rcmpd.account_group VALUES (1102, 'Web Team', 'web team', 'universal');
INSERT INTO rcmpd.account_group VALUES (1103, 'Wiki Editors', 'wiki editors', 'local');
INSERT INTO rcmpd.account_group VALUES (1104, 'Web Servers', 'web servers', 'global');
INSERT INTO rcmpd.account_key VALUES (1, 'alice@contoso.example', 1001);
INSERT INTO rcmpd.account_key VALUES (1, 'bob@contoso.example', 1002);
INSERT INTO rcmpd.account_key VALUES (3, 'X509:<I>O=CONTOSO,CN=CONTOSO DEMO CA<SR>db34561dffccca62c0a2d7d3b3d8e444', 1002);
INSERT INTO rcmpd.account_key VALUES (1, 'carol@contoso.example', 1003);
INSERT INTO rcmpd.account_key VALUES (3, 'X509:<I>O=CONTOSO,CN=CONTOSO DEMO CA<S>O=CONTOSO,OU=PEOPLE,CN=CAROL CARTER', 1003);
INSERT INTO rcmpd.account_key VALUES (2, 'host/web01.contoso.example', 1004);
INSERT INTO rcmpd.domain VALUES (1, 'CONTOSO', 'contoso.example', 'S-1-5-21-2200820672-302597607-3704192418', 1105, '4 17.0.0 18.0.0 18.0.0', '\xce4a456970e9150274959f6269b57599');
INSERT INTO rcmpd.machine VALUES (1004, 'WEB01$', 'web01$', 'workstation', true, true, '[]', '[]', 134405528906944781, '\x759eac2c8f1c6009277c36da3a2332069864072adedc6f276c1df8675103adc74dd13acbea5b06f5fc8cd8ddaded090f62c7d34be58aee005b33944816');
INSERT INTO rcmpd.member VALUES (1102, 1101);
INSERT INTO rcmpd.member VALUES (1103, 1102);
INSERT INTO rcmpd.member VALUES (1101, 1001);
INSERT INTO rcmpd.member VALUES (1102, 1002);
INSERT INTO rcmpd.member VALUES (1103, 1003);
INSERT INTO rcmpd.member VALUES (1104, 1004);
INSERT INTO rcmpd.revision VALUES (1, 3, -8331586806571749710, 3, 8141702691141491307, 3, -6321859128640114180);
INSERT INTO rcmpd.schema_version VALUES (1, 2);
ALTER TABLE ONLY rcmpd.account_group
    ADD CONSTRAINT account_group_name_key_key UNIQUE (name_key);
ALTER TABLE ONLY rcmpd.account_group
    ADD CONSTRAINT account_group_pkey PRIMARY KEY (rid);
ALTER TABLE ONLY rcmpd.account_key
    ADD CONSTRAINT account_key_pkey PRIMARY KEY (kind, key, rid);
ALTER TABLE ONLY rcmpd.account
    ADD CONSTRAINT account_name_key_key UNIQUE (name_key);
ALTER TABLE ONLY rcmpd.account
    ADD CONSTRAINT account_pkey PRIMARY KEY (rid);
ALTER TABLE ONLY rcmpd.challenge
    ADD CONSTRAINT challenge_pkey PRIMARY KEY (place);
ALTER TABLE ONLY rcmpd.channel
    ADD CONSTRAINT channel_pkey PRIMARY KEY (id);
ALTER TABLE ONLY rcmpd.domain
    ADD CONSTRAINT domain_pkey PRIMARY KEY (id);
ALTER TABLE ONLY rcmpd.machine
    ADD CONSTRAINT machine_name_key_key UNIQUE (name_key);
ALTER TABLE ONLY rcmpd.machine
    ADD CONSTRAINT machine_pkey PRIMARY KEY (rid);
ALTER TABLE ONLY rcmpd.member
    ADD CONSTRAINT member_pkey PRIMARY KEY (group_rid, member_rid);
ALTER TABLE ONLY rcmpd.name_twin
    ADD CONSTRAINT name_twin_pkey PRIMARY KEY (name_key);
ALTER TABLE ONLY rcmpd.nt_hash
    ADD CONSTRAINT nt_hash_pkey PRIMARY KEY (rid);
ALTER TABLE ONLY rcmpd.password_hash
    ADD CONSTRAINT password_hash_pkey PRIMARY KEY (rid);
ALTER TABLE ONLY rcmpd.revision
    ADD CONSTRAINT revision_pkey PRIMARY KEY (id);
ALTER TABLE ONLY rcmpd.schema_version
    ADD CONSTRAINT schema_version_pkey PRIMARY KEY (id);
CREATE INDEX account_primary_group ON rcmpd.account USING btree (primary_group_id);
CREATE INDEX channel_account ON rcmpd.channel USING btree (sid, ends);
CREATE INDEX channel_computer ON rcmpd.channel USING btree (computer, ends);
CREATE INDEX channel_ends ON rcmpd.channel USING btree (ends);
CREATE INDEX member_of ON rcmpd.member USING btree (member_rid, group_rid);
CREATE INDEX name_twin_wide ON rcmpd.name_twin USING btree (wide_key);

// JSSE as one side of a TLSNEGO negotiation. The lines of standard input and output are those of tlsnego_openssl.py, except
// for the number of tickets, which is JSSE's own.

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyFactory;
import java.security.KeyStore;
import java.security.MessageDigest;
import java.security.PrivateKey;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.security.cert.X509Certificate;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Base64;
import java.util.HexFormat;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.net.Socket;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLEngine;
import javax.net.ssl.SSLEngineResult;
import javax.net.ssl.SSLPeerUnverifiedException;
import javax.net.ssl.TrustManager;
import javax.net.ssl.X509ExtendedTrustManager;

public class TlsnegoJsse {
    static final HexFormat HEX = HexFormat.of();
    final SSLEngine engine;
    final boolean closes;
    ByteBuffer incoming = ByteBuffer.allocate(1 << 18).flip();
    ByteBuffer outgoing = ByteBuffer.allocate(1 << 18);
    ByteBuffer plain = ByteBuffer.allocate(1 << 15);
    boolean done;

    TlsnegoJsse(String settings) throws Exception {
        SSLContext context = SSLContext.getInstance("TLS");
        KeyManagerFactory keys = null;
        if (text(settings, "certificate") != null) {
            Certificate certificate;
            try (var file = Files.newInputStream(Path.of(text(settings, "certificate")))) {
                certificate = CertificateFactory.getInstance("X.509").generateCertificate(file);
            }
            String pem = Files.readString(Path.of(text(settings, "key"))).replaceAll("-----[A-Z ]+-----", "");
            byte[] der = Base64.getMimeDecoder().decode(pem);
            String kind = certificate.getPublicKey().getAlgorithm();
            PrivateKey key = KeyFactory.getInstance(kind).generatePrivate(new PKCS8EncodedKeySpec(der));
            KeyStore store = KeyStore.getInstance("PKCS12");
            store.load(null, null);
            store.setKeyEntry("own", key, new char[0], new Certificate[] {certificate});
            keys = KeyManagerFactory.getInstance("PKIX");
            keys.init(store, new char[0]);
        }
        context.init(keys == null ? null : keys.getKeyManagers(), new TrustManager[] {new TrustAll()}, null);
        engine = context.createSSLEngine();
        engine.setUseClientMode(text(settings, "role").equals("client"));
        List<String> versions = list(settings, "versions");
        List<String> enabled = new ArrayList<>();
        for (String version : List.of("1.2", "1.3")) {
            if (version.compareTo(versions.get(0)) >= 0 && version.compareTo(versions.get(1)) <= 0) {
                enabled.add("TLSv" + version);
            }
        }
        engine.setEnabledProtocols(enabled.toArray(new String[0]));
        if (text(settings, "asks") != null) {
            engine.setNeedClientAuth(true);
        }
        closes = settings.contains("\"close_notify\":true");
        engine.beginHandshake();
    }

    void take(byte[] octets) {
        incoming.compact().put(octets).flip();
    }

    void wrap(ByteBuffer source) throws Exception {
        SSLEngineResult result = engine.wrap(source, outgoing);
        done |= result.getHandshakeStatus() == SSLEngineResult.HandshakeStatus.FINISHED;
    }

    /** Whether a record was read. */
    boolean unwrap() throws Exception {
        int before = incoming.remaining();
        SSLEngineResult result = engine.unwrap(incoming, plain);
        done |= result.getHandshakeStatus() == SSLEngineResult.HandshakeStatus.FINISHED;
        return incoming.remaining() < before;
    }

    /** As far as what has arrived leads. */
    void run() throws Exception {
        while (true) {
            switch (engine.getHandshakeStatus()) {
                case NEED_TASK -> {
                    for (Runnable task; (task = engine.getDelegatedTask()) != null; ) {
                        task.run();
                    }
                }
                case NEED_WRAP -> wrap(ByteBuffer.allocate(0));
                default -> {
                    if (!unwrap() && engine.getHandshakeStatus() != SSLEngineResult.HandshakeStatus.NEED_TASK
                        && engine.getHandshakeStatus() != SSLEngineResult.HandshakeStatus.NEED_WRAP) {
                        return;
                    }
                }
            }
        }
    }

    byte[] sent() {
        byte[] octets = Arrays.copyOf(outgoing.array(), outgoing.position());
        outgoing.clear();
        return octets;
    }

    byte[] read() {
        byte[] octets = Arrays.copyOf(plain.array(), plain.position());
        plain.clear();
        return octets;
    }

    String receive(byte[] octets) throws Exception {
        take(octets);
        run();
        if (plain.position() > 0) {
            throw new IllegalStateException("application data");
        }
        return "{\"send\": \"" + HEX.formatHex(sent()) + "\", \"done\": " + done + "}";
    }

    String facts(byte[] key, List<String> legs, byte[] cipherValue) throws Exception {
        MessageDigest hash = MessageDigest.getInstance("SHA-1");
        for (String leg : legs) {
            hash.update(HEX.parseHex(leg));
        }
        byte[] peer = new byte[0];
        try {
            peer = engine.getSession().getPeerCertificates()[0].getEncoded();
        } catch (SSLPeerUnverifiedException anonymous) {
            // There is none.
        }
        return "{\"key\": \"" + HEX.formatHex(key) + "\", \"combined_hash\": \"" + HEX.formatHex(combined(key, hash.digest()))
            + "\", \"version\": \"" + engine.getSession().getProtocol() + "\", \"peer\": \"" + HEX.formatHex(peer)
            + "\", \"cipher_value\": \"" + HEX.formatHex(cipherValue) + "\"}";
    }

    static byte[] combined(byte[] key, byte[] legs) throws Exception {
        Mac mac = Mac.getInstance("HmacSHA1");
        mac.init(new SecretKeySpec(key, "HmacSHA1"));
        byte[] seed = concat("AUTH-HASH".getBytes("US-ASCII"), legs);
        byte[] a = mac.doFinal(seed);
        byte[] first = mac.doFinal(concat(a, seed));
        byte[] second = mac.doFinal(concat(mac.doFinal(a), seed));
        return Arrays.copyOf(concat(first, second), 32);
    }

    static byte[] concat(byte[] first, byte[] second) {
        byte[] both = Arrays.copyOf(first, first.length + second.length);
        System.arraycopy(second, 0, both, first.length, second.length);
        return both;
    }

    String answer(String line) throws Exception {
        if (text(line, "receive") != null) {
            return receive(HEX.parseHex(text(line, "receive")));
        }
        if (text(line, "unwrap") != null) {
            take(HEX.parseHex(text(line, "unwrap")));
            run();
            if (incoming.hasRemaining()) {
                throw new IllegalStateException("octets behind the key");
            }
            return facts(read(), list(line, "legs"), new byte[0]);
        }
        byte[] key = HEX.parseHex(text(line, "wrap"));
        wrap(ByteBuffer.wrap(key));
        byte[] record = sent();
        String facts;
        if (closes) {
            facts = facts(key, list(line, "legs"), new byte[0]);
            engine.closeOutbound();
            run();
            record = concat(record, sent());
            return facts.replace("\"cipher_value\": \"", "\"cipher_value\": \"" + HEX.formatHex(record));
        }
        return facts(key, list(line, "legs"), record);
    }

    static String text(String json, String field) {
        Matcher matcher = Pattern.compile("\"" + field + "\":\"([^\"]*)\"").matcher(json);
        return matcher.find() ? matcher.group(1) : null;
    }

    static List<String> list(String json, String field) {
        Matcher matcher = Pattern.compile("\"" + field + "\":\\[([^\\]]*)\\]").matcher(json);
        List<String> values = new ArrayList<>();
        if (matcher.find()) {
            Matcher value = Pattern.compile("\"([^\"]*)\"").matcher(matcher.group(1));
            while (value.find()) {
                values.add(value.group(1));
            }
        }
        return values;
    }

    static class TrustAll extends X509ExtendedTrustManager {
        public void checkClientTrusted(X509Certificate[] chain, String type) {}
        public void checkClientTrusted(X509Certificate[] chain, String type, Socket socket) {}
        public void checkClientTrusted(X509Certificate[] chain, String type, SSLEngine engine) {}
        public void checkServerTrusted(X509Certificate[] chain, String type) {}
        public void checkServerTrusted(X509Certificate[] chain, String type, Socket socket) {}
        public void checkServerTrusted(X509Certificate[] chain, String type, SSLEngine engine) {}
        public X509Certificate[] getAcceptedIssuers() {
            return new X509Certificate[0];
        }
    }

    public static void main(String[] arguments) throws Exception {
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        TlsnegoJsse peer = null;
        for (String line; (line = lines.readLine()) != null; ) {
            if (text(line, "role") != null) {
                peer = new TlsnegoJsse(line);
                continue;
            }
            String answer;
            try {
                answer = peer.answer(line);
            } catch (Exception error) {
                String text = String.valueOf(error).replaceAll("[^ -~]|[\"\\\\]", " ");
                answer = "{\"error\": \"" + text + "\", \"send\": \"" + HEX.formatHex(peer.sent()) + "\"}";
            }
            System.out.println(answer);
        }
    }
}

// WSS4J as one side of secured messages, with JSSE for negotiations: it shares no code with ours.
//
// JSON objects come from standard input, each in one line. Each step is answered by one JSON object in a line, and the last of
// them for one object is {"step": "end"}.
//
//   {"role": "call" | "serve" | "verify",
//    "server": PEM file of the service's certificate, "server_key": PEM file of its key, of a service and to verify,
//    "user": name, "password": password, "certificate": PEM file of the client, "key": PEM file,
//    "url": where to post, "to": a:To, "binding": "session" (RST/SCT, then calls) or "call", "negotiate": "false" to encrypt a
//    key to the service's certificate, "version": of TLS, "calls": a number as text, "cancel": "false" to leave the session open,
//    "size": octets of the text of a call, "trust": "1.3" for WS-Trust and WS-SecureConversation 1.3}
//
// "call" prints the steps that tlsnego_client.py prints; a fault that is secured is {"step": "call", "fault": its text}. "serve"
// prints {"port": number}, negotiates, establishes sessions, and answers calls with the body of the call. "verify" reads
// an exchange that was recorded: N-request.xml and N-reply.xml in "folder", from 1; it prints what each says.

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyFactory;
import java.security.KeyStore;
import java.security.MessageDigest;
import java.security.PrivateKey;
import java.security.SecureRandom;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.security.spec.PKCS8EncodedKeySpec;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Base64;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.UUID;
import javax.security.auth.callback.Callback;
import javax.security.auth.callback.CallbackHandler;
import javax.xml.parsers.DocumentBuilderFactory;
import javax.xml.transform.OutputKeys;
import javax.xml.transform.Transformer;
import javax.xml.transform.TransformerFactory;
import javax.xml.transform.dom.DOMSource;
import javax.xml.transform.stream.StreamResult;
import org.apache.ws.security.WSConstants;
import org.apache.ws.security.WSDataRef;
import org.apache.ws.security.WSEncryptionPart;
import org.apache.ws.security.WSPasswordCallback;
import org.apache.ws.security.WSSConfig;
import org.apache.ws.security.WSSecurityEngine;
import org.apache.ws.security.WSSecurityEngineResult;
import org.apache.ws.security.WSSecurityException;
import org.apache.ws.security.components.crypto.Merlin;
import org.apache.ws.security.conversation.ConversationConstants;
import org.apache.ws.security.conversation.dkalgo.P_SHA1;
import org.apache.ws.security.handler.RequestData;
import org.apache.ws.security.message.WSSecDKEncrypt;
import org.apache.ws.security.message.WSSecDKSign;
import org.apache.ws.security.message.WSSecDerivedKeyBase;
import org.apache.ws.security.message.WSSecEncryptedKey;
import org.apache.ws.security.message.WSSecHeader;
import org.apache.ws.security.message.WSSecSignature;
import org.apache.ws.security.message.WSSecSignatureConfirmation;
import org.apache.ws.security.message.WSSecTimestamp;
import org.apache.ws.security.message.WSSecUsernameToken;
import org.apache.ws.security.message.token.Reference;
import org.apache.ws.security.message.token.SecurityTokenReference;
import org.apache.ws.security.message.token.SignatureConfirmation;
import org.apache.ws.security.validate.NoOpValidator;
import org.apache.xml.security.c14n.Canonicalizer;
import org.w3c.dom.Document;
import org.w3c.dom.Element;
import org.w3c.dom.Node;

public class TlsnegoWss4j {
    static final String S = "http://www.w3.org/2003/05/soap-envelope";
    static final String A = "http://www.w3.org/2005/08/addressing";
    static String T;
    static String C;
    static final String O = WSConstants.WSSE_NS;
    static final String U = WSConstants.WSU_NS;
    static final String E = WSConstants.ENC_NS;
    static String SCT;
    static int version;
    static final String ANONYMOUS = A + "/anonymous";
    static String VALUE_TYPE;
    static final String ENCODING = WSConstants.SOAPMESSAGE_NS + "#Base64Binary";
    static final String TLS_WRAP = "http://schemas.xmlsoap.org/2005/02/trust/tlsnego#TLS_Wrap";
    static final char[] NO_PASSWORD = "key".toCharArray();

    /** An unsecured fault, or a message that is not what it has to be. */
    static class Refused extends Exception {
        Refused(String text) {
            super(text);
        }
    }

    /** What protects messages: a SecurityContextToken, or the key of one message, which has no element of its own. */
    record Token(Element element, String name, byte[] key) {}

    /** A message that WSS4J decrypted and verified. */
    record Opened(Document document, String action, String relatesTo, String messageId, Element body, Token token,
        List<byte[]> signatures, List<byte[]> confirmations, String user, boolean hasCertificate) {}

    final String settings;
    final Merlin crypto = new Merlin();
    final Map<String, byte[]> sessions = new HashMap<>();

    TlsnegoWss4j(String settings) throws Exception {
        this.settings = settings;
        KeyStore store = KeyStore.getInstance("PKCS12");
        store.load(null, null);
        entry(store, "service", "server", "server_key");
        entry(store, "client", "certificate", "key");
        crypto.setKeyStore(store);
    }

    /** WS-Trust 1.3 has other URIs, and its last response stands in a collection. */
    static void speak(boolean is13) {
        T = is13 ? "http://docs.oasis-open.org/ws-sx/ws-trust/200512" : "http://schemas.xmlsoap.org/ws/2005/02/trust";
        C = is13 ? ConversationConstants.WSC_NS_05_12 : ConversationConstants.WSC_NS_05_02;
        version = is13 ? ConversationConstants.VERSION_05_12 : ConversationConstants.VERSION_05_02;
        SCT = C + "/sct";
        VALUE_TYPE = (is13 ? "" : " ") + "http://schemas.xmlsoap.org/ws/2005/02/trust/tlsnego";
    }

    static boolean is13() {
        return version == ConversationConstants.VERSION_05_12;
    }

    static Element response(Element body) {
        Node parent = is13() ? child(body, T, "RequestSecurityTokenResponseCollection") : body;
        return child(parent, T, "RequestSecurityTokenResponse");
    }

    String text(String field) {
        return TlsnegoJsse.text(settings, field);
    }

    void entry(KeyStore store, String alias, String certificate, String key) throws Exception {
        if (text(certificate) == null) {
            return;
        }
        Certificate shown;
        try (var file = Files.newInputStream(Path.of(text(certificate)))) {
            shown = CertificateFactory.getInstance("X.509").generateCertificate(file);
        }
        if (text(key) == null) {
            store.setCertificateEntry(alias, shown);
            return;
        }
        String pem = Files.readString(Path.of(text(key))).replaceAll("-----[A-Z ]+-----", "");
        PrivateKey secret = KeyFactory.getInstance(shown.getPublicKey().getAlgorithm())
            .generatePrivate(new PKCS8EncodedKeySpec(Base64.getMimeDecoder().decode(pem)));
        store.setKeyEntry(alias, secret, NO_PASSWORD, new Certificate[] {shown});
    }

    // XML

    static Document parse(byte[] octets) throws Exception {
        DocumentBuilderFactory factory = DocumentBuilderFactory.newInstance();
        factory.setNamespaceAware(true);
        factory.setFeature("http://apache.org/xml/features/disallow-doctype-decl", true);
        return factory.newDocumentBuilder().parse(new ByteArrayInputStream(octets));
    }

    static byte[] write(Document document) throws Exception {
        Transformer transformer = TransformerFactory.newInstance().newTransformer();
        transformer.setOutputProperty(OutputKeys.OMIT_XML_DECLARATION, "yes");
        ByteArrayOutputStream output = new ByteArrayOutputStream();
        transformer.transform(new DOMSource(document), new StreamResult(output));
        return output.toByteArray();
    }

    static byte[] canonical(Element element) throws Exception {
        return Canonicalizer.getInstance(Canonicalizer.ALGO_ID_C14N_EXCL_OMIT_COMMENTS).canonicalizeSubtree(element);
    }

    static List<Element> elements(Node parent) {
        List<Element> found = new ArrayList<>();
        for (Node node = parent.getFirstChild(); node != null; node = node.getNextSibling()) {
            if (node instanceof Element element) {
                found.add(element);
            }
        }
        return found;
    }

    static Element child(Node parent, String namespace, String local) {
        if (parent == null) {
            return null;
        }
        for (Element element : elements(parent)) {
            if (namespace.equals(element.getNamespaceURI()) && local.equals(element.getLocalName())) {
                return element;
            }
        }
        return null;
    }

    static String childText(Node parent, String namespace, String local) {
        Element found = child(parent, namespace, local);
        return found == null ? null : found.getTextContent();
    }

    static Element header(Document document) {
        return child(document.getDocumentElement(), S, "Header");
    }

    static Element body(Document document) {
        return child(document.getDocumentElement(), S, "Body");
    }

    static String escape(String text) {
        return text.replace("&", "&amp;").replace("<", "&lt;").replace("\"", "&quot;");
    }

    static String base64(byte[] octets) {
        return Base64.getEncoder().encodeToString(octets);
    }

    static byte[] octets(String base64) {
        return Base64.getMimeDecoder().decode(base64);
    }

    static String urn() {
        return "urn:uuid:" + UUID.randomUUID();
    }

    static byte[] random(int length) {
        byte[] octets = new byte[length];
        new SecureRandom().nextBytes(octets);
        return octets;
    }

    static String message(String headers, String body) {
        return "<s:Envelope xmlns:s=\"" + S + "\" xmlns:a=\"" + A + "\"><s:Header>" + headers + "</s:Header><s:Body>" + body
            + "</s:Body></s:Envelope>";
    }

    static String request(String action, String messageId, String to, String body) {
        return message("<a:Action s:mustUnderstand=\"1\">" + action + "</a:Action><a:MessageID>" + messageId
            + "</a:MessageID><a:ReplyTo><a:Address>" + ANONYMOUS + "</a:Address></a:ReplyTo><a:To s:mustUnderstand=\"1\">"
            + escape(to) + "</a:To>", body);
    }

    static String reply(String action, String relatesTo, String body) {
        return message("<a:Action s:mustUnderstand=\"1\">" + action + "</a:Action><a:RelatesTo>" + escape(relatesTo)
            + "</a:RelatesTo>", body);
    }

    // Messages under a token

    WSSConfig config() {
        WSSConfig config = WSSConfig.getNewInstance();
        config.setTimeStampFutureTTL(300);
        if ("verify".equals(text("role"))) {
            // A recorded message is old, and WSS4J has only the clock of the machine.
            config.setValidator(WSSecurityEngine.TIMESTAMP, new NoOpValidator());
        }
        return config;
    }

    static <K extends WSSecDerivedKeyBase> K derived(K key, int length) {
        key.setWscVersion(version);
        key.setDerivedKeyLength(length);
        return key;
    }

    /**
     * Signs and encrypts. Without a token it encrypts a key to the certificate of the service; a reply names its token. Returns
     * the token, and adds the values of the signatures.
     */
    Token secure(Document document, Token token, boolean isReply, boolean proves, List<byte[]> confirmed,
        List<byte[]> signatures) throws Exception {
        WSSecHeader header = new WSSecHeader(null, true);
        header.insertSecurityHeader(document);
        WSSecTimestamp timestamp = new WSSecTimestamp(config());
        timestamp.setTimeToLive(300);
        timestamp.prepare(document);
        timestamp.prependToHeader(header);

        WSSecDKSign sign = derived(new WSSecDKSign(config()), 24);
        WSSecDKEncrypt encrypt = derived(new WSSecDKEncrypt(config()), 32);
        Element carried = null;
        WSSecEncryptedKey fresh = null;
        if (token == null) {
            fresh = new WSSecEncryptedKey(config());
            fresh.setUserInfo("service");
            fresh.setKeyIdentifierType(WSConstants.THUMBPRINT_IDENTIFIER);
            fresh.setKeyEncAlgo(WSConstants.KEYTRANSPORT_RSAOEP);
            fresh.setSymmetricEncAlgorithm(WSConstants.AES_256);
            fresh.prepare(document, crypto);
            String name = base64(sha1(fresh.getEncryptedEphemeralKey()));
            token = new Token(null, name, fresh.getEphemeralKey());
        }
        for (WSSecDerivedKeyBase key : List.of(sign, encrypt)) {
            if (fresh != null) {
                key.setExternalKey(token.key(), fresh.getId());
                key.setCustomValueType(WSConstants.WSS_ENC_KEY_VALUE_TYPE);
            } else if (isReply) {
                key.setExternalKey(token.key(), named(document, token));
            } else {
                carried = carried == null ? (Element) document.importNode(token.element(), true) : carried;
                key.setExternalKey(token.key(), carried.getAttributeNS(U, "Id"));
                key.setCustomValueType(SCT);
            }
        }

        List<WSEncryptionPart> signed = new ArrayList<>();
        List<WSEncryptionPart> encrypted = new ArrayList<>();
        signed.add(new WSEncryptionPart("Body", S, "Content"));
        encrypted.add(new WSEncryptionPart("Body", S, "Content"));
        for (Element element : elements(header(document))) {
            if (A.equals(element.getNamespaceURI())) {
                signed.add(new WSEncryptionPart(element.getLocalName(), A, "Header"));
            }
        }
        signed.add(new WSEncryptionPart(timestamp.getId()));
        if (proves && text("user") != null) {
            WSSecUsernameToken user = new WSSecUsernameToken(config());
            user.setPasswordType(WSConstants.PASSWORD_TEXT);
            user.setUserInfo(text("user"), text("password"));
            user.prepare(document);
            user.appendToHeader(header);
            signed.add(new WSEncryptionPart(user.getId()));
            encrypted.add(new WSEncryptionPart(user.getId(), "Element"));
        }
        for (byte[] value : confirmed) {
            WSSecSignatureConfirmation confirmation = new WSSecSignatureConfirmation(config());
            confirmation.setSignatureValue(value);
            confirmation.prepare(document);
            confirmation.prependToHeader(header);
            signed.add(new WSEncryptionPart(confirmation.getId()));
            encrypted.add(new WSEncryptionPart(confirmation.getId(), "Element"));
        }
        sign.setSignatureAlgorithm(WSConstants.HMAC_SHA1);
        sign.prepare(document, header);
        sign.computeSignature(sign.addReferencesToSign(signed, header), false, null);
        signatures.add(sign.getSignatureValue());
        encrypted.add(new WSEncryptionPart(sign.getSignatureId(), "Element"));
        WSSecSignature endorsing = null;
        if (proves && text("certificate") != null && fresh != null) {
            endorsing = new WSSecSignature(config());
            endorsing.setUserInfo("client", new String(NO_PASSWORD));
            endorsing.setKeyIdentifierType(WSConstants.BST_DIRECT_REFERENCE);
            endorsing.setSignatureAlgorithm(WSConstants.RSA_SHA1);
            endorsing.prepare(document, crypto, header);
            var references = endorsing.addReferencesToSign(List.of(new WSEncryptionPart(sign.getSignatureId())), header);
            endorsing.computeSignature(references, false, null);
            endorsing.prependBSTElementToHeader(header);
            signatures.add(endorsing.getSignatureValue());
            encrypted.add(new WSEncryptionPart(endorsing.getId(), "Element"));
        }
        encrypt.setSymmetricEncAlgorithm(WSConstants.AES_256);
        encrypt.prepare(document);
        Element list = encrypt.encryptForExternalRef(null, encrypted);
        // Prepending puts the last one first.
        encrypt.addExternalRefElement(list, header);
        encrypt.prependDKElementToHeader(header);
        sign.prependDKElementToHeader(header);
        if (fresh != null) {
            fresh.prependToHeader(header);
        } else if (carried != null) {
            header.getSecurityHeader().insertBefore(carried, header.getSecurityHeader().getFirstChild());
        }
        return token;
    }

    /** How a reply names the token that it does not carry. */
    static Element named(Document document, Token token) throws Exception {
        SecurityTokenReference reference = new SecurityTokenReference(document);
        reference.addWSSENamespace();
        if (token.element() == null) {
            reference.setKeyIdentifierEncKeySHA1(token.name());
            reference.addTokenType(WSConstants.WSS_ENC_KEY_VALUE_TYPE);
        } else {
            Reference named = new Reference(document);
            named.setURI(token.name());
            named.setValueType(SCT);
            reference.setReference(named);
        }
        return reference.getElement();
    }

    static byte[] sha1(byte[] octets) throws Exception {
        return MessageDigest.getInstance("SHA-1").digest(octets);
    }

    /** Keys and passwords that WSS4J asks for; `own` is the token of the request that a reply is to. */
    CallbackHandler handler(Token own) {
        return callbacks -> {
            for (Callback callback : callbacks) {
                WSPasswordCallback asked = (WSPasswordCallback) callback;
                switch (asked.getUsage()) {
                    case WSPasswordCallback.DECRYPT, WSPasswordCallback.SIGNATURE ->
                        asked.setPassword(new String(NO_PASSWORD));
                    case WSPasswordCallback.USERNAME_TOKEN -> {
                        if (asked.getIdentifier().equals(text("user"))) {
                            asked.setPassword(text("password"));
                        }
                    }
                    default -> {
                        if (own != null && own.name().equals(asked.getIdentifier())) {
                            asked.setKey(own.key());
                        } else {
                            asked.setKey(sessions.get(asked.getIdentifier()));
                        }
                    }
                }
            }
        };
    }

    /** Decrypts and verifies, and requires that everything is protected that has to be. */
    Opened open(Document document, Token own) throws Exception {
        Element header = header(document);
        Element security = child(header, O, "Security");
        if (security == null) {
            throw new Refused("not secured");
        }
        RequestData data = new RequestData();
        data.setWssConfig(config());
        data.setSigCrypto(crypto);
        data.setDecCrypto(crypto);
        data.setCallbackHandler(handler(own));
        List<WSSecurityEngineResult> results = new WSSecurityEngine().processSecurityHeader(security, data);

        Set<Element> signed = new HashSet<>();
        Set<String> encrypted = new HashSet<>();
        List<byte[]> signatures = new ArrayList<>();
        List<byte[]> confirmations = new ArrayList<>();
        Token token = own;
        String user = null;
        boolean hasCertificate = false;
        for (WSSecurityEngineResult result : results) {
            int action = (Integer) result.get(WSSecurityEngineResult.TAG_ACTION);
            @SuppressWarnings("unchecked")
            List<WSDataRef> references = (List<WSDataRef>) result.get(WSSecurityEngineResult.TAG_DATA_REF_URIS);
            if (action == WSConstants.SIGN) {
                byte[] value = (byte[]) result.get(WSSecurityEngineResult.TAG_SIGNATURE_VALUE);
                boolean endorses = result.get(WSSecurityEngineResult.TAG_X509_CERTIFICATE) != null;
                hasCertificate |= endorses;
                signatures.add(endorses ? signatures.size() : 0, value);
                for (WSDataRef reference : references) {
                    Element element = reference.getProtectedElement();
                    boolean isSignature = WSConstants.SIG_NS.equals(element.getNamespaceURI());
                    if (endorses != isSignature) {
                        throw new Refused("what a signature covers");
                    }
                    signed.add(element);
                }
            } else if (action == WSConstants.ENCR) {
                if (result.get(WSSecurityEngineResult.TAG_SECRET) != null) {
                    byte[] wrapped = (byte[]) result.get(WSSecurityEngineResult.TAG_ENCRYPTED_EPHEMERAL_KEY);
                    token = new Token(null, base64(sha1(wrapped)), (byte[]) result.get(WSSecurityEngineResult.TAG_SECRET));
                }
                for (WSDataRef reference : references == null ? List.<WSDataRef>of() : references) {
                    encrypted.add(reference.getName().getLocalPart());
                }
            } else if (action == WSConstants.SCT) {
                String name = childText((Element) result.get(WSSecurityEngineResult.TAG_TOKEN_ELEMENT), C, "Identifier");
                token = new Token((Element) result.get(WSSecurityEngineResult.TAG_TOKEN_ELEMENT), name, sessions.get(name));
            } else if (action == WSConstants.SC) {
                var confirmation = (SignatureConfirmation) result.get(WSSecurityEngineResult.TAG_SIGNATURE_CONFIRMATION);
                confirmations.add(confirmation.getSignatureValue());
            } else if (action == WSConstants.UT) {
                user = ((java.security.Principal) result.get(WSSecurityEngineResult.TAG_PRINCIPAL)).getName();
            }
        }
        List<Element> needed = new ArrayList<>(List.of(body(document), child(security, U, "Timestamp")));
        for (Element element : elements(header)) {
            if (A.equals(element.getNamespaceURI())) {
                needed.add(element);
            }
        }
        for (Element element : elements(security)) {
            if (List.of("UsernameToken", "SignatureConfirmation").contains(element.getLocalName())) {
                needed.add(element);
            }
        }
        if (!signed.containsAll(needed)) {
            throw new Refused("coverage");
        }
        if (!encrypted.containsAll(List.of("Signature")) || (user != null && !encrypted.contains("UsernameToken"))) {
            throw new Refused("encryption: " + encrypted);
        }
        return new Opened(document, childText(header, A, "Action"), childText(header, A, "RelatesTo"),
            childText(header, A, "MessageID"), body(document), token, signatures, confirmations, user, hasCertificate);
    }

    // The client

    final HttpClient http = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();

    /** Posts; an unsecured fault is refused. */
    Document post(byte[] message) throws Exception {
        HttpRequest request = HttpRequest.newBuilder(URI.create(text("url")))
            .header("Content-Type", "application/soap+xml; charset=utf-8")
            .POST(HttpRequest.BodyPublishers.ofByteArray(message))
            .build();
        HttpResponse<byte[]> response = http.send(request, HttpResponse.BodyHandlers.ofByteArray());
        if (response.statusCode() == 202 && response.body().length == 0) {
            return null;
        }
        Document document = parse(response.body());
        if (child(header(document), O, "Security") == null && child(body(document), S, "Fault") != null) {
            throw new Refused(faultCode(document) + " " + response.statusCode() + " "
                + childText(header(document), A, "Action"));
        }
        return document;
    }

    static String faultCode(Document document) {
        Element code = child(child(body(document), S, "Fault"), S, "Code");
        for (Element next = code; next != null; next = child(code, S, "Subcode")) {
            code = next;
        }
        Element value = child(code, S, "Value");
        String[] name = value.getTextContent().trim().split(":");
        return "{" + value.lookupNamespaceURI(name[0]) + "}" + name[1];
    }

    /** Posts a secured message, and returns the verified reply; null if there is none. */
    Opened ask(Token token, String action, String body, boolean proves) throws Exception {
        String messageId = urn();
        Document document = parse(request(action, messageId, text("to"), body).getBytes(StandardCharsets.UTF_8));
        List<byte[]> signatures = new ArrayList<>();
        Token own = secure(document, token, false, proves, List.of(), signatures);
        Document answer = post(write(document));
        if (answer == null) {
            return null;
        }
        Opened reply = open(answer, own);
        if (!messageId.equals(reply.relatesTo())) {
            throw new Refused("RelatesTo");
        }
        List<byte[]> expected = token == null && text("user") == null ? signatures : List.of();
        boolean confirms = expected.size() == reply.confirmations().size();
        for (byte[] value : expected) {
            confirms &= reply.confirmations().stream().anyMatch(found -> Arrays.equals(found, value));
        }
        if (!confirms) {
            throw new Refused("confirmations");
        }
        return reply;
    }

    List<byte[]> legs = new ArrayList<>();

    Element leg(String action, String element) throws Exception {
        String messageId = urn();
        byte[] octets = request(action, messageId, text("to"), element).getBytes(StandardCharsets.UTF_8);
        legs.add(canonical(elements(body(parse(octets))).get(0)));
        Document answer = post(octets);
        boolean isLast = child(body(answer), T, "RequestSecurityTokenResponseCollection") != null;
        String expected = T + (is13() && isLast ? "/RSTRC/IssueFinal" : "/RSTR/Issue");
        if (!expected.equals(childText(header(answer), A, "Action"))
            || !messageId.equals(childText(header(answer), A, "RelatesTo"))) {
            throw new Refused("headers of a leg");
        }
        return elements(body(answer)).get(0);
    }

    static String exchange(byte[] octets) {
        return "<t:BinaryExchange ValueType=\"" + VALUE_TYPE + "\" EncodingType=\"" + ENCODING + "\">" + base64(octets)
            + "</t:BinaryExchange>";
    }

    void take(TlsnegoJsse tls, Element response) throws Exception {
        Element node = child(response, T, "BinaryExchange");
        if (node != null) {
            if (!VALUE_TYPE.equals(node.getAttribute("ValueType"))) {
                throw new Refused("ValueType");
            }
            tls.take(octets(node.getTextContent()));
        }
        tls.run();
    }

    Token negotiate(StringBuilder facts) throws Exception {
        String version = text("version") == null ? "1.2" : text("version").replace("TLSv", "");
        String shown = text("certificate") == null ? ""
            : ",\"certificate\":\"" + text("certificate") + "\",\"key\":\"" + text("key") + "\"";
        TlsnegoJsse tls = new TlsnegoJsse(
            "{\"role\":\"client\",\"versions\":[\"" + version + "\",\"" + version + "\"]" + shown + "}");
        tls.run();
        String context = "uuid-" + UUID.randomUUID() + "-1";
        Element answer = leg(T + "/RST/Issue", "<t:RequestSecurityToken Context=\"" + context + "\" xmlns:t=\"" + T
            + "\"><t:TokenType>" + SCT + "</t:TokenType><t:RequestType>" + T + "/Issue</t:RequestType><t:KeySize>256</t:KeySize>"
            + exchange(tls.sent()) + "</t:RequestSecurityToken>");
        while (answer.getLocalName().equals("RequestSecurityTokenResponse")) {
            legs.add(canonical(answer));
            take(tls, answer);
            answer = leg(T + "/RSTR/Issue", "<t:RequestSecurityTokenResponse Context=\"" + context + "\" xmlns:t=\"" + T + "\">"
                + exchange(tls.sent()) + "</t:RequestSecurityTokenResponse>");
        }
        Element first = elements(answer).get(0);
        take(tls, first);
        Certificate server = tls.engine.getSession().getPeerCertificates()[0];
        if (!server.equals(crypto.getKeyStore().getCertificate("service"))) {
            throw new Refused("certificate");
        }
        Element wrapped = child(child(first, T, "RequestedProofToken"), E, "EncryptedKey");
        if (!TLS_WRAP.equals(child(wrapped, E, "EncryptionMethod").getAttribute("Algorithm"))) {
            throw new Refused("TLS_Wrap");
        }
        tls.take(octets(childText(child(wrapped, E, "CipherData"), E, "CipherValue")));
        tls.run();
        byte[] key = tls.read();
        Element issued = child(child(first, T, "RequestedSecurityToken"), C, "SecurityContextToken");
        Element element = (Element) parse(canonical(issued)).getDocumentElement();
        first.removeChild(child(first, T, "RequestedSecurityToken"));
        first.removeChild(child(first, T, "RequestedProofToken"));
        legs.add(canonical(first));
        MessageDigest hash = MessageDigest.getInstance("SHA-1");
        legs.forEach(hash::update);
        byte[] expected = TlsnegoJsse.combined(key, hash.digest());
        Element second = child(elements(answer).get(1), T, "Authenticator");
        if (!Arrays.equals(expected, octets(childText(second, T, "CombinedHash")))) {
            throw new Refused("authenticator");
        }
        Token token = new Token(element, childText(element, C, "Identifier"), key);
        facts.append(", \"version\": \"" + tls.engine.getSession().getProtocol() + "\", \"name\": \"" + token.name() + "\"");
        return token;
    }

    static byte[] computed(byte[] client, byte[] server) throws Exception {
        return new P_SHA1().createKey(client, server, 0, 32);
    }

    Token establish(Token bootstrap, StringBuilder facts) throws Exception {
        byte[] entropy = random(32);
        Opened reply = ask(bootstrap, T + "/RST/SCT", "<t:RequestSecurityToken xmlns:t=\"" + T + "\"><t:TokenType>" + SCT
            + "</t:TokenType><t:RequestType>" + T + "/Issue</t:RequestType><t:Entropy><t:BinarySecret Type=\"" + T + "/Nonce\">"
            + base64(entropy) + "</t:BinarySecret></t:Entropy><t:KeySize>256</t:KeySize></t:RequestSecurityToken>", true);
        Element response = response(reply.body());
        String algorithm = childText(child(response, T, "RequestedProofToken"), T, "ComputedKey");
        if (!(T + "/RSTR/SCT").equals(reply.action()) || !(T + "/CK/PSHA1").equals(algorithm)) {
            throw new Refused("RSTR/SCT");
        }
        byte[] theirs = octets(childText(child(response, T, "Entropy"), T, "BinarySecret"));
        Element issued = child(child(response, T, "RequestedSecurityToken"), C, "SecurityContextToken");
        Element element = parse(canonical(issued)).getDocumentElement();
        Token token = new Token(element, childText(element, C, "Identifier"), computed(entropy, theirs));
        facts.append(", \"name\": \"" + token.name() + "\"");
        return token;
    }

    void call(Token token, int n, boolean proves) throws Exception {
        String content = text("size") == null ? "call " + n + " &amp; more" : "x".repeat(Integer.parseInt(text("size")));
        Opened reply = ask(token, "urn:echo", "<Echo xmlns=\"urn:echo\">" + content + "</Echo>", proves);
        if (reply == null) {
            print("call", ", \"status\": 202");
            return;
        }
        Element fault = child(reply.body(), S, "Fault");
        if (fault != null) {
            String reason = childText(child(fault, S, "Reason"), S, "Text");
            print("call", ", \"action\": " + json(reply.action()) + ", \"fault\": " + json(reason));
            return;
        }
        StringBuilder fields = new StringBuilder();
        for (Element answer : elements(reply.body())) {
            for (Element field : elements(answer)) {
                String value = field.getTextContent();
                fields.append(fields.isEmpty() ? "" : ", ").append(json(field.getLocalName()) + ": " + json(value));
            }
        }
        print("call", ", \"action\": " + json(reply.action()) + ", \"text\": " + json(reply.body().getTextContent())
            + ", \"fields\": {" + fields + "}");
    }

    void cancel(Token token) throws Exception {
        Opened reply = ask(token, T + "/RST/SCT/Cancel", "<t:RequestSecurityToken xmlns:t=\"" + T + "\"><t:RequestType>" + T
            + "/Cancel</t:RequestType><t:CancelTarget><o:SecurityTokenReference xmlns:o=\"" + O + "\"><o:Reference URI=\""
            + token.name() + "\" ValueType=\"" + SCT + "\"/></o:SecurityTokenReference></t:CancelTarget></t:RequestSecurityToken>",
            false);
        if (child(response(reply.body()), T, "RequestedTokenCancelled") == null) {
            throw new Refused("RSTR/SCT/Cancel");
        }
        print("cancel", ", \"action\": " + json(reply.action()));
    }

    static String json(String text) {
        return "\"" + text.replace("\\", "\\\\").replace("\"", "\\\"").replaceAll("[\n\r\t]", " ") + "\"";
    }

    static void print(String step, String more) {
        System.out.println("{\"step\": \"" + step + "\"" + more + "}");
    }

    interface Work {
        void run() throws Exception;
    }

    /** Whether it was done. */
    static boolean step(String name, Work work) throws Exception {
        try {
            work.run();
            return true;
        } catch (Refused | WSSecurityException refused) {
            print(name, ", \"error\": " + json(String.valueOf(refused.getMessage())));
            return false;
        }
    }

    void runCalls() throws Exception {
        Token[] token = {null};
        boolean isSession = "session".equals(text("binding"));
        if (!"false".equals(text("negotiate")) && !step("negotiate", () -> {
            StringBuilder facts = new StringBuilder();
            token[0] = negotiate(facts);
            print("negotiate", facts.toString());
        })) {
            return;
        }
        if (isSession && !step("establish", () -> {
            StringBuilder facts = new StringBuilder();
            token[0] = establish(token[0], facts);
            print("establish", facts.toString());
        })) {
            return;
        }
        int calls = Integer.parseInt(text("calls"));
        for (int n = 1; n <= calls; n++) {
            int number = n;
            step("call", () -> call(token[0], number, !isSession));
        }
        if (token[0] != null && !"false".equals(text("cancel"))) {
            step("cancel", () -> cancel(token[0]));
            step("call", () -> call(token[0], calls + 1, !isSession));
        }
    }

    // The service

    void serve() throws Exception {
        HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", 0), 0);
        server.createContext("/", this::answer);
        server.start();
        System.out.println("{\"port\": " + server.getAddress().getPort() + "}");
        // Until standard input is closed.
        while (System.in.read() >= 0) {}
        server.stop(0);
        System.exit(0);
    }

    void answer(HttpExchange exchange) {
        try (exchange) {
            byte[] answer;
            int status = 200;
            try {
                answer = respond(parse(exchange.getRequestBody().readAllBytes()));
            } catch (Exception error) {
                System.err.println(error);
                boolean isUnknown = String.valueOf(error.getMessage()).contains("BadContextToken");
                String code = isUnknown ? "<s:Value xmlns:f=\"" + C + "\">f:BadContextToken</s:Value>"
                    : "<s:Value xmlns:f=\"" + O + "\">f:InvalidSecurity</s:Value>";
                answer = message("<a:Action>" + A + "/soap/fault</a:Action>", "<s:Fault><s:Code><s:Value>s:Sender</s:Value><s:Subcode>"
                    + code + "</s:Subcode></s:Code><s:Reason><s:Text xml:lang=\"en\">refused by WSS4J</s:Text></s:Reason></s:Fault>")
                    .getBytes(StandardCharsets.UTF_8);
                status = 500;
            }
            exchange.getResponseHeaders().set("Content-Type", "application/soap+xml; charset=utf-8");
            exchange.sendResponseHeaders(status, answer.length);
            exchange.getResponseBody().write(answer);
        } catch (Exception error) {
            System.err.println(error);
        }
    }

    /** A handshake in progress, and the canonical octets of its legs. */
    record Negotiation(TlsnegoJsse tls, List<byte[]> legs) {}

    final Map<String, Negotiation> negotiations = new HashMap<>();
    final Set<String> negotiated = new HashSet<>();

    byte[] negotiate(Document document, String action) throws Exception {
        Element leg = elements(body(document)).get(0);
        String context = leg.getAttribute("Context");
        if (action.equals(T + "/RST/Issue")) {
            String asks = text("certificate") == null ? "" : ",\"asks\":\"" + text("certificate") + "\"";
            negotiations.put(context, new Negotiation(new TlsnegoJsse("{\"role\":\"server\",\"versions\":[\"1.2\",\"1.2\"],\"certificate\":\""
                + text("server") + "\",\"key\":\"" + text("server_key") + "\"" + asks + "}"), new ArrayList<>()));
        }
        Negotiation negotiation = negotiations.get(context);
        TlsnegoJsse tls = negotiation.tls();
        negotiation.legs().add(canonical(leg));
        take(tls, leg);
        byte[] flight = tls.sent();
        String start = "<t:RequestSecurityTokenResponse Context=\"" + escape(context) + "\" xmlns:t=\"" + T + "\">";
        String end = "</t:RequestSecurityTokenResponse>";
        String messageId = childText(header(document), A, "MessageID");
        if (!tls.done) {
            String response = start + exchange(flight) + end;
            negotiation.legs().add(canonical(parse(response.getBytes(StandardCharsets.UTF_8)).getDocumentElement()));
            return reply(T + "/RSTR/Issue", messageId, response).getBytes(StandardCharsets.UTF_8);
        }
        negotiations.remove(context);
        byte[] key = random(32);
        tls.wrap(java.nio.ByteBuffer.wrap(key));
        String name = urn();
        sessions.put(name, key);
        negotiated.add(name);
        String reference = "<o:SecurityTokenReference xmlns:o=\"" + O + "\"><o:Reference URI=\"%s\"%s/></o:SecurityTokenReference>";
        String type = "<t:TokenType>" + SCT + "</t:TokenType>";
        String references = "<t:RequestedAttachedReference>" + String.format(reference, "#sct", "")
            + "</t:RequestedAttachedReference><t:RequestedUnattachedReference>"
            + String.format(reference, name, " ValueType=\"" + SCT + "\"") + "</t:RequestedUnattachedReference>";
        String proof = "<t:RequestedProofToken><e:EncryptedKey xmlns:e=\"" + E + "\"><e:EncryptionMethod Algorithm=\"" + TLS_WRAP
            + "\"/><e:CipherData><e:CipherValue>" + base64(tls.sent()) + "</e:CipherValue></e:CipherData></e:EncryptedKey>"
            + "</t:RequestedProofToken>";
        String rest = lifetime() + "<t:KeySize>256</t:KeySize>" + exchange(flight);
        String hashed = start + type + references + rest + end;
        negotiation.legs().add(canonical(parse(hashed.getBytes(StandardCharsets.UTF_8)).getDocumentElement()));
        MessageDigest hash = MessageDigest.getInstance("SHA-1");
        negotiation.legs().forEach(hash::update);
        String body = "<t:RequestSecurityTokenResponseCollection xmlns:t=\"" + T + "\">" + start + type + issued(name) + references + proof
            + rest + end + start + "<t:Authenticator><t:CombinedHash>" + base64(TlsnegoJsse.combined(key, hash.digest()))
            + "</t:CombinedHash></t:Authenticator>" + end + "</t:RequestSecurityTokenResponseCollection>";
        String last = T + (is13() ? "/RSTRC/IssueFinal" : "/RSTR/Issue");
        return reply(last, messageId, body).getBytes(StandardCharsets.UTF_8);
    }

    static String collected(String response) {
        String one = "<t:RequestSecurityTokenResponse xmlns:t=\"" + T + "\">" + response + "</t:RequestSecurityTokenResponse>";
        return is13() ? "<t:RequestSecurityTokenResponseCollection xmlns:t=\"" + T + "\">" + one
            + "</t:RequestSecurityTokenResponseCollection>" : one;
    }

    static String issued(String name) {
        return "<t:RequestedSecurityToken><c:SecurityContextToken xmlns:c=\"" + C + "\" xmlns:u=\"" + U + "\" u:Id=\"sct\"><c:Identifier>"
            + name + "</c:Identifier></c:SecurityContextToken></t:RequestedSecurityToken>";
    }

    static String lifetime() {
        return "<t:Lifetime><u:Created xmlns:u=\"" + U + "\">" + Instant.now() + "</u:Created><u:Expires xmlns:u=\"" + U + "\">"
            + Instant.now().plusSeconds(3600) + "</u:Expires></t:Lifetime>";
    }

    byte[] respond(Document document) throws Exception {
        String asked = childText(header(document), A, "Action");
        if (asked.equals(T + "/RST/Issue") || asked.equals(T + "/RSTR/Issue")) {
            return negotiate(document, asked);
        }
        Element carried = child(child(header(document), O, "Security"), C, "SecurityContextToken");
        if (carried != null && !sessions.containsKey(childText(carried, C, "Identifier"))) {
            throw new Refused("BadContextToken");
        }
        Opened request = open(document, null);
        boolean isUnderSession = request.token().element() != null;
        boolean isNegotiated = negotiated.contains(request.token().name());
        boolean isCancel = request.action().equals(T + "/RST/SCT/Cancel");
        boolean proves = isUnderSession && (!isNegotiated || isCancel)
            || (text("user") == null || text("user").equals(request.user()))
            && (text("certificate") == null || isNegotiated || request.hasCertificate());
        if (!proves) {
            throw new Refused("who it is");
        }
        String action;
        String body;
        if (request.action().equals(T + "/RST/SCT")) {
            Element wanted = child(request.body(), T, "RequestSecurityToken");
            byte[] entropy = random(32);
            String name = urn();
            sessions.put(name, computed(octets(childText(child(wanted, T, "Entropy"), T, "BinarySecret")), entropy));
            action = T + "/RSTR/SCT";
            body = collected("<t:TokenType>" + SCT + "</t:TokenType>" + issued(name) + "<t:RequestedProofToken><t:ComputedKey>" + T
                + "/CK/PSHA1</t:ComputedKey></t:RequestedProofToken><t:Entropy><t:BinarySecret Type=\"" + T + "/Nonce\">"
                + base64(entropy) + "</t:BinarySecret></t:Entropy>" + lifetime() + "<t:KeySize>256</t:KeySize>");
        } else if (isCancel) {
            sessions.remove(request.token().name());
            action = T + "/RSTR/SCT/Cancel";
            body = collected("<t:RequestedTokenCancelled/>");
        } else {
            action = request.action() + "Response";
            StringBuilder content = new StringBuilder();
            for (Element element : elements(request.body())) {
                content.append(new String(canonical(element), StandardCharsets.UTF_8));
            }
            body = content.toString();
        }
        Document reply = parse(reply(action, request.messageId(), body).getBytes(StandardCharsets.UTF_8));
        List<byte[]> confirmed = !isUnderSession && text("user") == null ? request.signatures() : List.of();
        secure(reply, request.token(), true, false, confirmed, new ArrayList<>());
        return write(reply);
    }

    // A recorded exchange

    void verify() throws Exception {
        for (int n = 1; Files.exists(Path.of(text("folder"), n + "-request.xml")); n++) {
            Opened[] request = {null};
            int number = n;
            if (!step(n + "-request", () -> {
                request[0] = open(recorded(number, "request"), null);
                describe(number + "-request", request[0]);
            })) {
                continue;
            }
            step(n + "-reply", () -> {
                Document document = recorded(number, "reply");
                if (child(header(document), O, "Security") == null) {
                    throw new Refused(faultCode(document));
                }
                Opened reply = open(document, request[0].token());
                if (!request[0].messageId().equals(reply.relatesTo())) {
                    throw new Refused("RelatesTo");
                }
                describe(number + "-reply", reply);
                Element response = response(reply.body());
                Element issued = child(child(response, T, "RequestedSecurityToken"), C, "SecurityContextToken");
                if (issued != null) {
                    Element asked = child(request[0].body(), T, "RequestSecurityToken");
                    byte[] client = octets(childText(child(asked, T, "Entropy"), T, "BinarySecret"));
                    byte[] server = octets(childText(child(response, T, "Entropy"), T, "BinarySecret"));
                    sessions.put(childText(issued, C, "Identifier"), computed(client, server));
                }
            });
        }
    }

    Document recorded(int number, String what) throws Exception {
        return parse(Files.readAllBytes(Path.of(text("folder"), number + "-" + what + ".xml")));
    }

    static void describe(String step, Opened opened) {
        print(step, ", \"action\": " + json(opened.action()) + ", \"user\": " + json(String.valueOf(opened.user())) + ", \"text\": "
            + json(opened.body().getTextContent()));
    }

    public static void main(String[] arguments) throws Exception {
        WSSConfig.init();
        for (String line; (line = readLine()) != null; ) {
            speak("1.3".equals(TlsnegoJsse.text(line, "trust")));
            TlsnegoWss4j peer = new TlsnegoWss4j(line);
            switch (peer.text("role")) {
                case "serve" -> peer.serve();
                case "verify" -> peer.verify();
                default -> peer.runCalls();
            }
            print("end", "");
        }
    }

    /** A line of standard input; nothing behind it is read. */
    static String readLine() throws Exception {
        ByteArrayOutputStream line = new ByteArrayOutputStream();
        for (int octet; (octet = System.in.read()) != '\n'; ) {
            if (octet < 0) {
                return null;
            }
            line.write(octet);
        }
        return line.toString(StandardCharsets.UTF_8);
    }
}

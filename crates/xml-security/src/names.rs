//! Namespaces of SOAP 1.2, WS-Addressing, WS-Security, WS-SecureConversation, XML signature and XML
//! encryption, and the URIs of their algorithms and token types.

/// A namespace with the prefix under which this crate writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Prefix; empty for the default namespace.
    pub prefix: &'static str,
    /// Namespace name, compared octet by octet.
    pub uri: &'static str,
}

impl Namespace {
    /// The name of an element or attribute of this namespace.
    pub const fn name(self, local: &'static str) -> Name<'static> {
        Name { prefix: self.prefix, namespace: self.uri, local }
    }
}

/// Name of an element or attribute. Only namespace and local part are compared; the prefix is for writing.
#[derive(Clone, Copy, Debug)]
pub struct Name<'a> {
    /// Prefix to write, empty for none.
    pub prefix: &'a str,
    /// Namespace name, empty for none.
    pub namespace: &'a str,
    /// Local part.
    pub local: &'a str,
}

impl<'a> Name<'a> {
    /// A name in no namespace, such as that of most attributes.
    pub const fn plain(local: &'a str) -> Self {
        Self { prefix: "", namespace: "", local }
    }
}

/// SOAP 1.2.
pub const SOAP: Namespace = Namespace { prefix: "s", uri: "http://www.w3.org/2003/05/soap-envelope" };
/// WS-Addressing 1.0.
pub const ADDRESSING: Namespace = Namespace { prefix: "a", uri: "http://www.w3.org/2005/08/addressing" };
/// WS-SecureConversation of February 2005.
pub const CONVERSATION: Namespace =
    Namespace { prefix: "c", uri: "http://schemas.xmlsoap.org/ws/2005/02/sc" };
/// WS-Security 1.0 (secext).
pub const SECURITY: Namespace = Namespace {
    prefix: "o",
    uri: "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd",
};
/// WS-Security utility.
pub const UTILITY: Namespace = Namespace {
    prefix: "u",
    uri: "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-utility-1.0.xsd",
};
/// WS-Security 1.1.
pub const SECURITY_11: Namespace =
    Namespace { prefix: "k", uri: "http://docs.oasis-open.org/wss/oasis-wss-wssecurity-secext-1.1.xsd" };
/// XML encryption.
pub const ENCRYPTION: Namespace = Namespace { prefix: "e", uri: "http://www.w3.org/2001/04/xmlenc#" };
/// XML signature, written as the default namespace.
pub const SIGNATURE: Namespace = Namespace { prefix: "", uri: "http://www.w3.org/2000/09/xmldsig#" };
/// Exclusive canonicalisation; also the algorithm without comments.
pub const EXCLUSIVE: Namespace = Namespace { prefix: "ec", uri: "http://www.w3.org/2001/10/xml-exc-c14n#" };
/// XML schema instance, whose `type` attribute holds a prefixed name.
pub const SCHEMA_INSTANCE: Namespace =
    Namespace { prefix: "xsi", uri: "http://www.w3.org/2001/XMLSchema-instance" };
/// XML schema.
pub const SCHEMA: Namespace = Namespace { prefix: "xsd", uri: "http://www.w3.org/2001/XMLSchema" };
/// The namespace of `xml:lang` and its like, which needs no declaration.
pub const XML: Namespace = Namespace { prefix: "xml", uri: "http://www.w3.org/XML/1998/namespace" };
/// The namespace of declarations, which nothing may be in.
pub const XMLNS: Namespace = Namespace { prefix: "xmlns", uri: "http://www.w3.org/2000/xmlns/" };

/// `wsu:Id`.
pub const UTILITY_ID: Name<'static> = UTILITY.name("Id");
/// `Id` without a namespace, an id on elements of XML signature and XML encryption only.
pub const PLAIN_ID: Name<'static> = Name::plain("Id");

/// `Type` of an EncryptedData that stands for the children of its parent.
pub const TYPE_CONTENT: &str = "http://www.w3.org/2001/04/xmlenc#Content";
/// `Type` of an EncryptedData that stands for one element.
pub const TYPE_ELEMENT: &str = "http://www.w3.org/2001/04/xmlenc#Element";

/// SHA-1 as a digest.
pub const SHA1: &str = "http://www.w3.org/2000/09/xmldsig#sha1";
/// SHA-256 as a digest.
pub const SHA256: &str = "http://www.w3.org/2001/04/xmlenc#sha256";
/// HMAC-SHA1.
pub const HMAC_SHA1: &str = "http://www.w3.org/2000/09/xmldsig#hmac-sha1";
/// HMAC-SHA256.
pub const HMAC_SHA256: &str = "http://www.w3.org/2001/04/xmldsig-more#hmac-sha256";
/// RSASSA-PKCS1-v1_5 with SHA-1.
pub const RSA_SHA1: &str = "http://www.w3.org/2000/09/xmldsig#rsa-sha1";
/// RSASSA-PKCS1-v1_5 with SHA-256.
pub const RSA_SHA256: &str = "http://www.w3.org/2001/04/xmldsig-more#rsa-sha256";
/// RSAES-OAEP with MGF1 over SHA-1.
pub const RSA_OAEP: &str = "http://www.w3.org/2001/04/xmlenc#rsa-oaep-mgf1p";
/// Key derivation by P_SHA1.
pub const DERIVE_P_SHA1: &str = "http://schemas.xmlsoap.org/ws/2005/02/sc/dk/p_sha1";

/// `ValueType` of a reference to a SecurityContextToken.
pub const CONTEXT_TOKEN: &str = "http://schemas.xmlsoap.org/ws/2005/02/sc/sct";
/// `ValueType` of a reference to an EncryptedKey in the message.
pub const ENCRYPTED_KEY: &str =
    "http://docs.oasis-open.org/wss/oasis-wss-soap-message-security-1.1#EncryptedKey";
/// `ValueType` of a key identifier that is the SHA-1 of an encrypted key's octets.
pub const ENCRYPTED_KEY_SHA1: &str =
    "http://docs.oasis-open.org/wss/oasis-wss-soap-message-security-1.1#EncryptedKeySHA1";
/// `ValueType` of a key identifier that is the SHA-1 of a certificate.
pub const THUMBPRINT_SHA1: &str =
    "http://docs.oasis-open.org/wss/oasis-wss-soap-message-security-1.1#ThumbprintSHA1";
/// `ValueType` of a key identifier that is a certificate's subject key identifier.
pub const SUBJECT_KEY_IDENTIFIER: &str =
    "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-x509-token-profile-1.0#X509SubjectKeyIdentifier";
/// `ValueType` of a certificate in a BinarySecurityToken.
pub const X509_V3: &str =
    "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-x509-token-profile-1.0#X509v3";
/// `EncodingType` of base64 text.
pub const BASE64_BINARY: &str =
    "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-soap-message-security-1.0#Base64Binary";
/// `Type` of a password in clear.
pub const PASSWORD_TEXT: &str =
    "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-username-token-profile-1.0#PasswordText";

declare module 'ihp-datasync' {
    type Mood = 'calm' | 'busy';
    interface Invoice {
        id: UUID;
        totalCents: number;
        paidAt: string | null;
        mood: Mood;
        tags: Array<string>;
    }
    interface User {
        id: UUID;
        type_: string;
        number: string;
        balance: string;
        rate: string | null;
        height: number | null;
        isHere: boolean;
        data_: string | null;
        oldMoods: Array<Mood>;
    }
    /**
     * A Invoice object not yet inserted into the `invoices` table
     */
    interface NewInvoice {
        id?: UUID;
        totalCents: number;
        paidAt?: string | null;
        mood: Mood;
        tags: Array<string>;
    }
    /**
     * A User object not yet inserted into the `users` table
     */
    interface NewUser {
        id?: UUID;
        type_: string;
        number: string;
        balance?: string;
        rate: string | null;
        height: number | null;
        isHere?: boolean;
        data_: string | null;
        oldMoods?: Array<Mood>;
    }

    interface TableRegistry {
        "invoices": Invoice;
        "users": User;
    }

    interface NewRecordRegistry {
        "invoices": NewInvoice;
        "users": NewUser;
    }

    function getCurrentUserId(): string;
    function getCurrentUser(): Promise<User | null>;

    interface LogoutOptions {
        redirect?: string;
    }

    function logout(options?: LogoutOptions): Promise<void>;

    /**
     * Leads to the page where users log in. The promise does not resolve: the page is left.
     */
    function loginWithRedirect(): Promise<void>;
    function ensureIsUser(): Promise<void>;
    function initAuth(): Promise<void>;

    function initThinBackend(options: { host: string | undefined; }): void;
}

declare module 'ihp-datasync/react' {
    function useCurrentUser(): User | null;

    /**
     * Whether somebody is logged in; null while that is not known.
     */
    function useIsLoggedIn(): boolean | null;

    interface ThinBackendProps {
        requireLogin?: boolean;
        children: JSX.Element[] | JSX.Element;
    }
    function ThinBackend(props: ThinBackendProps): JSX.Element;
}
